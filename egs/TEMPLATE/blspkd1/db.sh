# To be sourced by local/data.sh: where corpora are on this machine.
# shellcheck shell=bash disable=SC2034

CORPUS=downloads

# To be sourced by local/data.sh: where corpora are on this machine.
# shellcheck shell=bash disable=SC2034

LIBRISPEECH=downloads/LibriSpeech  # the folder that holds train-clean-100, dev-clean, ...; --download true fills it

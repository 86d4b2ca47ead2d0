# To be sourced by local/data.sh: where corpora are on this machine.
# shellcheck shell=bash disable=SC2034

AN4=downloads/an4  # the folder that holds etc/an4_train.fileids and wav/; http://www.speech.cs.cmu.edu/databases/an4/

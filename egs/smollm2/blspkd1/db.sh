# To be sourced by local/data.sh: where corpora are on this machine. All of them may be missing.
# shellcheck shell=bash disable=SC2034

AN4=               # the folder that holds etc/an4_train.fileids and wav/: people in training, and data/test_an4
LIBRISPEECH=       # the folder that holds train-clean-100 ...: more people in training
LIBRISPEECH_TEST=  # the folder that holds test-clean: data/test_librispeech

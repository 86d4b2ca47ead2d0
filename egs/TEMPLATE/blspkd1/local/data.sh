#!/usr/bin/env bash
# Stage 1: make data/train, data/valid and data/test from the corpus. Called with --nj and with --local_data_opts.
set -euo pipefail

# shellcheck disable=SC2034
nj=4  # parallel jobs

. utils/log.sh
. utils/parse_options.sh
. ./db.sh
. ./cmd.sh

# A data directory holds Kaldi's files, one line per recording or utterance, sorted (LC_ALL=C sort). For example:
#   for name in train valid test; do
#       mkdir -p data/${name}
#       find "${CORPUS}/${name}" -name '*.flac' | while IFS= read -r path; do
#           utt_id=$(basename "${path}" .flac)                       # begins with the speaker: spk1-0001
#           echo "${utt_id} ${path}" >&3                              # wav.scp: where the recording is
#           echo "${utt_id} $(cat "${path%.flac}.txt")" >&4           # text: what is said
#           echo "${utt_id} ${utt_id%%-*}" >&5                        # utt2spk: who says it
#       done 3> data/${name}/wav.scp 4> data/${name}/text 5> data/${name}/utt2spk
#       utils/fix_data_dir.sh data/${name}                            # sorts the files and writes spk2utt
#   done
# Test sets add text.<task>, the references of a task of conf/decode.yaml, and, where it differs by utterance, its
# `instruction`. Parts of recordings: `segments`. More in README.md.
die "local/data.sh of this recipe is not written yet: it has to make data/train, data/valid and data/test"

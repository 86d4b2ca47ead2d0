#!/usr/bin/env bash
# Kaldi's command, here without Perl: utils/spk2utt_to_utt2spk.pl data/train/spk2utt > data/train/utt2spk
set -euo pipefail

awk '{ for (i = 2; i <= NF; i++) print $i, $1 }' "$@" | LC_ALL=C sort -k 1,1

#!/usr/bin/env bash
# Kaldi's command, here without Perl: utils/utt2spk_to_spk2utt.pl data/train/utt2spk > data/train/spk2utt
set -euo pipefail

awk '{ if (!($2 in utterances)) order[++n] = $2; utterances[$2] = utterances[$2] " " $1 }
     END { for (i = 1; i <= n; i++) print order[i] utterances[order[i]] }' "$@" | LC_ALL=C sort -k 1,1

#!/usr/bin/env bash
# AN4 (CMU, 1991): people spell names, read numbers and give commands. 37 minutes of speech and 101 words; small models are
# trained on the spot, on 2 CPU cores. Say in db.sh where the corpus is (its folder holds etc/ and wav/).
set -euo pipefail
cd "$(dirname "$0")"

exec ./blspkd.sh \
    --train_set train \
    --valid_set valid \
    --test_sets test \
    --llm exp/base/llm \
    --speech_encoder exp/base/recogniser \
    --local_data_outputs "exp/base/llm exp/base/recogniser exp/base/recogniser_early40 exp/base/recogniser_early70" \
    --continuation_config conf/continuation.yaml \
    --train_config conf/train.yaml \
    --inference_config conf/decode.yaml \
    --ngpu 0 \
    --nj 2 \
    --num_procs 2 \
    --preamble conf/results_preamble.md \
    --align_sets test \
    --compare_jobs 2 \
    "$@"

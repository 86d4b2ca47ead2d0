#!/usr/bin/env bash
# The embedded recipe: a toy language spoken by synthetic voices, small models trained on the spot, 2 CPU cores.
set -euo pipefail
cd "$(dirname "$0")"

exec ./blspkd.sh \
    --train_set train \
    --valid_set valid \
    --test_sets "test_heard test_unheard test_hard" \
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
    --align_sets "test_heard test_unheard" \
    --noisy_set test_heard \
    --compare_jobs 2 \
    "$@"

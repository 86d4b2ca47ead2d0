#!/usr/bin/env bash
# This recipe's choices; everything else is in blspkd.sh. `./run.sh --help` lists all options.
set -euo pipefail
cd "$(dirname "$0")"

exec ./blspkd.sh \
    --train_set train \
    --valid_set valid \
    --test_sets "test" \
    --llm Qwen/Qwen2.5-0.5B-Instruct \
    --speech_encoder openai/whisper-small \
    --continuation_config conf/continuation.yaml \
    --train_config conf/train.yaml \
    --inference_config conf/decode.yaml \
    --ngpu 1 \
    --nj 4 \
    "$@"

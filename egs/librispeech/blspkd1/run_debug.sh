#!/usr/bin/env bash
# The whole recipe in a minute on a CPU, without a model to download: a few utterances of train-clean-100, dev-clean and
# test-clean, and tiny models of the same classes that know nothing (local/debug_models.py). The figures mean nothing.
#   ./run_debug.sh --stop_stage compare
set -euo pipefail
cd "$(dirname "$0")"

models=exp/debug_models
data_opts="--datadir data/debug --train_parts train-clean-100 --valid_parts dev-clean --test_parts test-clean"
exec ./run.sh \
    --test_sets test_clean \
    --llm "${models}/llm" \
    --speech_encoder "${models}/whisper" \
    --local_data_opts "${data_opts} --max_utterances 12 --debug_models ${models}" \
    --local_data_outputs "${models}/llm ${models}/whisper" \
    --datadir data/debug \
    --tag debug \
    --continuation_args "--dtype float32 --max_new_tokens 8" \
    --max_bad_ratio 1 \
    --train_config conf/debug.yaml \
    --inference_args "--dtype float32 --max_new_tokens 8 --num_bootstrap 50" \
    --compare_config conf/compare_debug.yaml \
    --compare_budget debug \
    --compare_jobs 2 \
    --ngpu 0 \
    --nj 1 \
    "$@"

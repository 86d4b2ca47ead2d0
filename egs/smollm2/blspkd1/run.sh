#!/usr/bin/env bash
# A real LLM, SmolLM2-135M-Instruct, learns to listen through a real encoder, Whisper tiny.en, on two CPU cores.
# tools/pretrained.sh makes both models. People's recordings are used where db.sh says where they are.
set -euo pipefail
cd "$(dirname "$0")"

models=../../../tools/models
test_sets=
for name in test_unheard facts_unheard test_natural facts_natural test_an4 test_librispeech; do
    if [ -d "data/${name}" ]; then test_sets+="${name} "; fi
done
if [ ! -f "${models}/smollm2/config.json" ] || [ ! -f "${models}/whisper-tiny.en/config.json" ]; then
    echo "note: the models are not there yet; \`make -C ../../../tools models\` makes them in a minute" >&2
fi

exec ./blspkd.sh \
    --train_set train \
    --valid_set valid \
    --test_sets "${test_sets:-test_unheard facts_unheard}" \
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

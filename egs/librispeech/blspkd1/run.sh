#!/usr/bin/env bash
# LibriSpeech, 960 hours of read English, at the paper's shape: Whisper, CFormer, a chat LLM of 7 billion parameters.
# Say in db.sh where the corpus is (or let `--local_data_opts "--download true"` fetch it, 60 GB). Then, on
#   1 GPU          ./run.sh
#   8 GPUs         ./run.sh --ngpu 8 --nj 8 --train_config conf/train_8gpu.yaml
#   8 x 8 GPUs     ./run.sh --ngpu 8 --num_nodes 8 --nj 64 --train_config conf/train_64gpu.yaml   (first choose in cmd.sh)
# Other models, by Hugging Face id or folder: --llm meta-llama/Llama-2-7b-chat-hf --speech_encoder openai/whisper-large-v2
# (the latter is the paper's). Other LLMs want their own continuations: give each its own --datadir (and the same
# --datadir in --local_data_opts). A first try with little memory: --llm Qwen/Qwen2.5-0.5B-Instruct.
# With some parts only: --test_sets test_clean, and the parts by themselves (local/data.sh --help).
set -euo pipefail
cd "$(dirname "$0")"

exec ./blspkd.sh \
    --train_set train \
    --valid_set valid \
    --test_sets "test_clean test_other" \
    --llm Qwen/Qwen2.5-7B-Instruct \
    --speech_encoder openai/whisper-small \
    --continuation_config conf/continuation.yaml \
    --train_config conf/train.yaml \
    --inference_config conf/decode.yaml \
    --ngpu 1 \
    --nj 4 \
    "$@"

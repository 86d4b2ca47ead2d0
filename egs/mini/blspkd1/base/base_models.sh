#!/usr/bin/env bash
# Make a recipe's own base models: the LLM with its tokenizer, and the speech recogniser. Both are then used by path,
# just as models from the Hugging Face hub would be. Models that are there already, made with the same options from the
# same data, are left alone; a run that was killed goes on where it was.
set -euo pipefail

lm_dir=data/local/lm         # text: train.jsonl and dev.jsonl
train_dirs=data/train        # speech; with the synthesiser's word_times where it is synthetic
repeats=                     # how often an epoch sees each of train_dirs, e.g. "1 5" (empty: once)
dev_dirs=data/valid          # the recogniser's word error rate is measured here; several separated by spaces
output_dir=exp/base          # makes tokenizer, llm, recogniser and recogniser_early<percent> in it
recogniser_name=recogniser   # the recogniser's folder in it
pieces=                      # tokenizer pieces         (empty: the default in train_tokenizer.py)
llm_steps=                   # optimiser steps          (empty: the default in train_llm.py)
recogniser_steps=            # optimiser steps          (empty: the default in train_recogniser.py)
llm_args=                    # more options for train_llm.py, e.g. "--num_layers 2"
recogniser_args=             # more options for train_recogniser.py
seed=0
nj=2                         # 2: both trainings side by side, one thread each; 1: one after the other

known=(lm_dir train_dirs repeats dev_dirs output_dir recogniser_name pieces llm_steps recogniser_steps llm_args recogniser_args seed nj)

log() { echo "$(date '+%Y-%m-%dT%H:%M:%S') (base_models.sh) $*"; }

while [ $# -gt 0 ]; do
    name="${1#--}"; name="${name//-/_}"
    if [ "${name}" = help ]; then
        sed -n '2,/^seed=/p' "$0"
        exit 0
    fi
    if [[ "$1" != --* || " ${known[*]} " != *" ${name} "* ]]; then
        echo "$0: unknown option $1; known: ${known[*]/#/--}" >&2
        exit 1
    fi
    [ $# -ge 2 ] || { echo "$0: $1 needs a value" >&2; exit 1; }
    printf -v "${name}" '%s' "$2"
    shift 2
done

base_dir="$(dirname "$0")"
# shellcheck disable=SC1091
if [ -f path.sh ]; then . ./path.sh; fi
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_PROGRESS_BARS=1

mkdir -p "${output_dir}/log"
llm_log="${output_dir}/log/llm.log"
recogniser_log="${output_dir}/log/${recogniser_name}.log"

# shellcheck disable=SC2086  # *_args are words
train_llm() {
    exec python "${base_dir}/train_llm.py" --lm_dir "${lm_dir}" --tokenizer_dir "${output_dir}/tokenizer" \
        --output_dir "${output_dir}/llm" --seed "${seed}" ${llm_steps:+--llm_steps "${llm_steps}"} ${llm_args} \
        >> "${llm_log}" 2>&1
}

# shellcheck disable=SC2086
train_recogniser() {
    exec python "${base_dir}/train_recogniser.py" --train_dirs "${train_dirs}" --dev_dirs "${dev_dirs}" \
        --tokenizer_dir "${output_dir}/tokenizer" --output_dir "${output_dir}/${recogniser_name}" --seed "${seed}" \
        ${repeats:+--repeats "${repeats}"} ${recogniser_steps:+--recogniser_steps "${recogniser_steps}"} \
        ${recogniser_args} >> "${recogniser_log}" 2>&1
}

# What a progress bar in a log says now: its last redrawing.
last_words() { tail -c 400 "$1" 2>/dev/null | tr '\r' '\n' | grep -v '^ *$' | tail -n 1 | sed 's/|[^|]*|/ /; s/  */ /g'; }

# One line with both bars until one of the trainings has ended: redrawn on a terminal, else written every 20 s.
show_progress() {
    local elapsed=0 width pid
    while true; do
        for pid in "${running[@]}"; do kill -0 "${pid}" 2>/dev/null || break 2; done
        sleep 0.5
        elapsed=$((elapsed + 1))
        if [ -t 2 ]; then
            width=$(tput cols 2>/dev/null || echo 120)
            printf '\r\033[K%.*s' $((width - 1)) "$(last_words "${llm_log}") | $(last_words "${recogniser_log}")" >&2
        elif [ $((elapsed % 40)) -eq 0 ]; then
            echo "$(last_words "${llm_log}") | $(last_words "${recogniser_log}")" >&2
        fi
    done
    if [ -t 2 ]; then printf '\r\033[K' >&2; fi
}

# Says what the training $1 achieved, which has ended and whose log is $2 from byte $3 on; or why it failed.
finish() {
    if ! wait "${running[$1]}"; then
        echo "$0: training the $1 failed; the end of $2:" >&2
        tail -c "+$3" "$2" | tr '\r' '\n' | tail -n 30 >&2
        return 1
    fi
    unset "running[$1]"
    tail -c "+$3" "$2" | tr '\r' '\n' | grep -E '^(LLM|recogniser)[:,]'
}

# Until all that run have ended, or one has failed: then the script ends, and the other with it, which can go on later.
wait_for_trainings() {
    while [ ${#running[@]} -gt 0 ]; do
        show_progress
        if ! kill -0 "${running[LLM]:-$$}" 2>/dev/null; then finish LLM "${llm_log}" "${llm_start}" || exit 1; fi
        if ! kill -0 "${running[recogniser]:-$$}" 2>/dev/null; then
            finish recogniser "${recogniser_log}" "${recogniser_start}" || exit 1
        fi
    done
}

python "${base_dir}/train_tokenizer.py" --lm_dir "${lm_dir}" --output_dir "${output_dir}/tokenizer" \
    ${pieces:+--pieces "${pieces}"}

touch "${llm_log}" "${recogniser_log}"
llm_start=$(($(stat -c %s "${llm_log}") + 1))
recogniser_start=$(($(stat -c %s "${recogniser_log}") + 1))
declare -A running  # process ids
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
log "LLM and recogniser in ${output_dir} (logs in ${output_dir}/log; ${nj} at a time)"
train_llm &
running[LLM]=$!
if [ "${nj}" -lt 2 ]; then wait_for_trainings; fi
train_recogniser &
running[recogniser]=$!
wait_for_trainings

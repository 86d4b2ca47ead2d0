#!/usr/bin/env bash
# Stage 1 of the mini recipe: make the corpus (text, speech, data directories) and then the base models.
set -euo pipefail

num_train=16000   # spoken training sentences
num_valid=300     # spoken validation sentences
num_test=300      # test sentences; test_heard, test_unheard and test_hard speak the same ones
num_lm=120000     # instruction examples for the LLM
seed=0
nj=2              # processes
base_model_opts=  # options for local/base_models.sh

while [ $# -gt 0 ]; do
    name="${1#--}"; name="${name//-/_}"
    case "${name}" in
        num_train|num_valid|num_test|num_lm|seed|nj|base_model_opts) ;;
        *) echo "$0: unknown option $1; known: --num_train --num_valid --num_test --num_lm --seed --nj" \
                "--base_model_opts" >&2; exit 1 ;;
    esac
    [ $# -ge 2 ] || { echo "$0: $1 needs a value" >&2; exit 1; }
    printf -v "${name}" '%s' "$2"
    shift 2
done

log() { echo "$(date '+%Y-%m-%dT%H:%M:%S') (data.sh) $*"; }

# shellcheck disable=SC1091
if [ -f path.sh ]; then . ./path.sh; fi

options="num_train=${num_train} num_valid=${num_valid} num_test=${num_test} num_lm=${num_lm} seed=${seed}"
if [ -f data/local/corpus.done ] && [ "$(cat data/local/corpus.done)" = "${options}" ]; then
    log "The text in data/local is already there"
else
    log "Writing sentences, translations, questions and continuations to data/local"
    rm -f data/local/corpus.done
    python local/corpus.py --output_dir data/local --num_lm "${num_lm}" --num_train "${num_train}" \
        --num_valid "${num_valid}" --num_test "${num_test}" --seed "${seed}"
    echo "${options}" > data/local/corpus.done
fi

log "Speaking the sentences to data/local/wav"
python local/synthesise.py --spoken_dir data/local/spoken --wav_dir data/local/wav --nj "${nj}" --seed "${seed}"

log "Making data/{train,valid,test_heard,test_unheard,test_hard}"
python local/data_dirs.py --spoken_dir data/local/spoken --wav_dir data/local/wav --output_dir data

if [ -x local/base_models.sh ]; then
    log "Training the base models: LLM and speech recogniser"
    # shellcheck disable=SC2086  # the options are words
    local/base_models.sh --seed "${seed}" --nj "${nj}" ${base_model_opts}
fi

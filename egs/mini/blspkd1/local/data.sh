#!/usr/bin/env bash
# Stage 1 of the mini recipe: write the corpus's text, speak it, make data directories, and train the base models.
# It needs no download and can be started again at any time.
set -euo pipefail

num_train=16000   # spoken training sentences
num_valid=300     # spoken validation sentences
num_test=300      # spoken test sentences; test_heard, test_unheard and test_hard share them
num_lm=120000     # instruction examples for the LLM
seed=0            # of all that is drawn
nj=2              # processes
datadir=data      # folder for the data directories
base_models=true  # false: text and speech only
base_model_opts=  # options for base/base_models.sh

. ./path.sh
. utils/log.sh
. utils/parse_options.sh

corpus="${datadir}/local"
sets="train=train/training valid=valid/training
      test_heard=test/training test_unheard=test/held_out test_hard=test/hard"  # name=sentences/voices
options="num_train=${num_train} num_valid=${num_valid} num_test=${num_test} num_lm=${num_lm} seed=${seed}"

if [ -f "${corpus}/text.done" ] && [ "$(cat "${corpus}/text.done")" = "${options}" ]; then
    log "${corpus} has the text already"
else
    log "Write sentences, translations, questions and continuations to ${corpus}"
    rm -f "${corpus}/text.done"
    python local/corpus.py --output_dir "${corpus}" --num_lm "${num_lm}" --num_train "${num_train}" \
        --num_valid "${num_valid}" --num_test "${num_test}" --seed "${seed}"
    echo "${options}" > "${corpus}/text.done"
fi

log "Speak the sentences to ${corpus}/wav"
python base/synthesise.py --sets "${sets}" --spoken_dir "${corpus}/spoken" --wav_dir "${corpus}/wav" --nj "${nj}" --seed "${seed}"

log "Make ${datadir}/{train,valid,test_heard,test_unheard,test_hard}"
python base/data_dirs.py --sets "${sets}" --spoken_dir "${corpus}/spoken" --wav_dir "${corpus}/wav" \
    --output_dir "${datadir}"

if ${base_models}; then
    log "Train the base models: tokenizer, LLM and speech recogniser"
    # shellcheck disable=SC2086  # these options are words
    base/base_models.sh --lm_dir "${corpus}/lm" --train_dirs "${datadir}/train" --dev_dirs "${datadir}/valid" \
        --seed "${seed}" --nj "${nj}" ${base_model_opts}
fi

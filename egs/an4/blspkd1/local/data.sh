#!/usr/bin/env bash
# Stage 1 of the AN4 recipe: the corpus as data directories, more speech of the same kind from a synthesiser, and the base
# models: a small LLM that knows instructions about letters and numbers, and a small speech recogniser.
# It can be started again at any time; what is there stays.
set -euo pipefail

an4=                   # AN4's folder, which holds etc/ and wav/; empty: AN4 in db.sh
num_valid_speakers=8   # training speakers that are held out for validation
num_spoken=6000        # sentences for the synthesiser
num_lm=200000          # instruction examples for the LLM
copies=8               # how often data/train holds a recording, each time with a continuation of its own
recogniser_repeats=12  # how often the recogniser sees a recording while it sees a synthetic utterance once
seed=0                 # of all that is drawn
nj=2                   # processes
datadir=data           # folder for the data directories
base_models=true       # false: text and speech only
llm_args=              # further options for base/train_llm.py, e.g. "--llm_steps 4000"
recogniser_args=       # further options for base/train_recogniser.py

. ./path.sh
. utils/log.sh
. utils/parse_options.sh
. ./db.sh

an4=${an4:-${AN4:-}}
[ -d "${an4}/etc" ] || die "AN4: '${an4}' holds no folder etc; name AN4's folder: AN4 in db.sh, or --local_data_opts \
\"--an4 DIR\""
work=${datadir}/local
sets=synthetic=synthetic/training  # name=sentences/voices

log "Make ${datadir}/{people,valid,test} of ${an4}"
python local/an4_dirs.py --an4 "${an4}" --output_dir "${datadir}" --num_valid_speakers "${num_valid_speakers}" --seed "${seed}"

options="num_lm=${num_lm} num_spoken=${num_spoken} seed=${seed} $(cat "${datadir}"/{people,valid,test}/text | cksum)"
if [ -f "${work}/text.done" ] && [ "$(cat "${work}/text.done")" = "${options}" ]; then
    log "${work} has the text already"
else
    log "Write sentences, instructions, answers and continuations to ${work}"
    rm -f "${work}/text.done"
    python local/corpus.py --data_dir "${datadir}" --output_dir "${work}" --num_lm "${num_lm}" \
        --num_spoken "${num_spoken}" --seed "${seed}"
    echo "${options}" > "${work}/text.done"
fi

log "Speak the sentences to ${work}/wav"
python base/synthesise.py --sets "${sets}" --spoken_dir "${work}/spoken" --wav_dir "${work}/wav" --rates 110 220 \
    --nj "${nj}" --seed "${seed}"
python base/data_dirs.py --sets "${sets}" --spoken_dir "${work}/spoken" --wav_dir "${work}/wav" --output_dir "${datadir}" \
    --max_seconds 10  # the longest that the recogniser is made for

log "Join ${datadir}/train: ${copies} times people, and synthetic"
joined=()
for copy in $(seq "${copies}"); do
    utils/copy_data_dir.sh --utt-prefix "copy${copy}_" --spk-prefix "copy${copy}_" "${datadir}/people" "${work}/copy${copy}"
    joined+=("${work}/copy${copy}")
done
utils/combine_data.sh "${work}/train" "${joined[@]}" "${datadir}/synthetic"
mkdir -p "${datadir}/train"
cp "${work}/train"/{wav.scp,text,utt2spk,spk2utt} "${datadir}/train"  # continuations that are there stay

if ${base_models}; then
    log "Train the base models: tokenizer, LLM and speech recogniser"
    base/base_models.sh --lm_dir "${work}/lm" --train_dirs "${datadir}/synthetic ${datadir}/people" \
        --repeats "1 ${recogniser_repeats}" --dev_dirs "${datadir}/valid" --pieces 400 --seed "${seed}" --nj "${nj}" \
        --llm_args "--llm_steps 10000 --learning_rate 5e-4 --input_weight 0.1 ${llm_args}" --recogniser_args "--chunk_seconds 10 --text_pieces 150 \
--recogniser_steps 14000 --max_stretch 0.2 --max_warp 0.1 --max_tilt 0.1 --dropout 0.1 --token_noise 0.2 ${recogniser_args}"
fi

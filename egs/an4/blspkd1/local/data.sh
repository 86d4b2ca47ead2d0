#!/usr/bin/env bash
# Stage 1 of the AN4 recipe: the corpus as data directories, more speech of the same kind from a synthesiser, and the base
# models: a small LLM that knows instructions about letters and numbers, and a small speech recogniser.
# It can be started again at any time; what is there stays.
set -euo pipefail

an4=                   # AN4's folder, which holds etc/ and wav/; empty: AN4 in db.sh
num_valid_speakers=8   # training speakers that are held out for validation
num_spoken=6000        # sentences for the synthesiser
num_lm=200000          # instruction examples for the LLM
copies=4               # how often data/train holds a recording, each time with a continuation of its own
num_spliced=3000       # utterances that are put together of two recordings
repeats="1 10 2"       # how often the recogniser sees what is synthetic, recorded and spliced in an epoch
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
pieces=400  # of the LLM's tokenizer
recogniser="--chunk_seconds 10 --text_pieces 150 --max_stretch 0.2 --max_warp 0.12 --max_tilt 0.1 --dropout 0.1 \
--token_noise 0.1 --attention_floor 0.3 --learning_rate 1e-3 --num_beams 5"
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

make_base_models() {  # what both calls have in common; a training with nothing to do is left out
    base/base_models.sh --lm_dir "${work}/lm" --dev_dirs "${datadir}/valid" --pieces "${pieces}" --seed "${seed}" \
        --nj "${nj}" --llm_args "--optimizer adamw --llm_steps 10000 --learning_rate 5e-4 --input_weight 0.1 ${llm_args}" "$@"
}

if ${base_models}; then
    log "Train the LLM, and a first recogniser, which tells when each word of ${datadir}/people is spoken"
    make_base_models --recogniser_name aligner --train_dirs "${datadir}/synthetic ${datadir}/people" --repeats "1 12" \
        --recogniser_args "${recogniser} --optimizer adamw --recogniser_steps 5000 --early_percents= ${recogniser_args}"
    utils/copy_data_dir.sh "${datadir}/people" "${work}/aligned"
    python base/align_words.py --recogniser exp/base/aligner --tokenizer_dir exp/base/tokenizer --data_dirs "${work}/aligned"
    log "Splice recordings into ${datadir}/spliced"
    python base/splice.py --data_dir "${work}/aligned" --count "${num_spliced}" \
        --forbidden "${datadir}/test/text" --output_dir "${datadir}/spliced" --wav_dir "${work}/spliced" --seed "${seed}"
    log "Train the recogniser"
    make_base_models --train_dirs "${datadir}/synthetic ${work}/aligned ${datadir}/spliced" --repeats "${repeats}" \
        --recogniser_args "--init_dir exp/base/aligner ${recogniser} --optimizer adamw --recogniser_steps 11000 --max_mask_bins 20 \
--threads ${nj} ${recogniser_args}"
fi

log "Join ${datadir}/train: ${copies} times people, spliced, and synthetic"
joined=("${datadir}/synthetic")
if [ -f "${datadir}/spliced/text" ]; then joined+=("${datadir}/spliced"); fi
for copy in $(seq "${copies}"); do
    utils/copy_data_dir.sh --utt-prefix "copy${copy}_" --spk-prefix "copy${copy}_" "${datadir}/people" "${work}/copy${copy}"
    joined+=("${work}/copy${copy}")
done
utils/combine_data.sh "${work}/train" "${joined[@]}"
mkdir -p "${datadir}/train"
cp "${work}/train"/{wav.scp,text,utt2spk,spk2utt} "${datadir}/train"  # continuations that are there stay

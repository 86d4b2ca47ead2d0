#!/usr/bin/env bash
# Stage 1 of the SmolLM2 recipe: sentences of everyday kind, spoken by espeak-ng, and real recordings where there are some.
# It can be started again at any time; what is there stays.
set -euo pipefail

an4=                # AN4's folder; empty: AN4 in db.sh
librispeech=        # the folder with train-clean-100; empty: LIBRISPEECH in db.sh
librispeech_test=   # the folder with test-clean, of which nothing is trained on; empty: LIBRISPEECH_TEST in db.sh
num_train=40000     # spoken training sentences
num_valid=300       # spoken validation sentences
num_test=150        # test sentences, and factual questions at most
copies=6            # how often data/train holds a recording of a person
seed=0              # of all that is drawn
nj=2                # processes
datadir=data        # folder for the data directories

. ./path.sh
. utils/log.sh
. utils/parse_options.sh
. ./db.sh

an4=${an4:-${AN4:-}} librispeech=${librispeech:-${LIBRISPEECH:-}} librispeech_test=${librispeech_test:-${LIBRISPEECH_TEST:-}}
work=${datadir}/local
sets="synthetic=train/training synthetic_valid=valid/training test_unheard=test/held_out facts_unheard=facts/held_out"

log "Write sentences to ${work}/spoken"
python local/corpus.py --output_dir "${work}/spoken" --num_train "${num_train}" --num_valid "${num_valid}" \
    --num_test "${num_test}" --seed "${seed}"
log "Speak them to ${work}/wav"
python base/synthesise.py --sets "${sets}" --spoken_dir "${work}/spoken" --wav_dir "${work}/wav" --nj "${nj}" --seed "${seed}"
python base/data_dirs.py --sets "${sets}" --spoken_dir "${work}/spoken" --wav_dir "${work}/wav" --output_dir "${datadir}"
for name in test facts; do
    python local/natural_voice.py --rows "${work}/spoken/${name}.jsonl" --wav_dir "${work}/natural/${name}" \
        --output_dir "${datadir}/${name}_natural" || log "going on without ${datadir}/${name}_natural"
done

people=() valid=("${datadir}/synthetic_valid")
if [ -n "${an4}" ]; then
    log "Make data directories of ${an4}"
    python an4/an4_dirs.py --an4 "${an4}" --output_dir "${work}/an4" --seed "${seed}"
    people+=("${work}/an4/people") valid+=("${work}/an4/valid")
    utils/copy_data_dir.sh "${work}/an4/test" "${datadir}/test_an4"
fi
if [ -n "${librispeech}" ]; then
    log "Make a data directory of ${librispeech}/train-clean-100"
    python librispeech/part.py --lowercase true --allow_incomplete true "${librispeech}/train-clean-100" "${work}/librispeech"
    people+=("${work}/librispeech")
fi
if [ -n "${librispeech_test}" ]; then
    python librispeech/part.py --lowercase true --allow_incomplete true "${librispeech_test}/test-clean" "${datadir}/test_librispeech"
fi

log "Join ${datadir}/train and ${datadir}/valid"
joined=("${datadir}/synthetic")
for dir in "${people[@]}"; do
    for copy in $(seq "${copies}"); do
        utils/copy_data_dir.sh --utt-prefix "copy${copy}_" --spk-prefix "copy${copy}_" "${dir}" "${dir}_copy${copy}"
        joined+=("${dir}_copy${copy}")
    done
done
utils/combine_data.sh "${work}/train" "${joined[@]}"
utils/combine_data.sh "${work}/valid" "${valid[@]}"
for name in train valid; do
    mkdir -p "${datadir}/${name}"
    cp "${work}/${name}"/{wav.scp,text,utt2spk,spk2utt} "${datadir}/${name}"  # continuations that are there stay
done

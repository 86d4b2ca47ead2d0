#!/usr/bin/env bash
# Stage 1 of the LibriSpeech recipe: join the parts that are there to data/train, data/valid and a folder for each test
# part (test-clean: data/test_clean). The recordings stay where they are, flac as it is.
# shellcheck disable=SC2034,SC2086  # lists of parts are words
set -euo pipefail

librispeech=             # folder that holds train-clean-100 and so on; empty: LIBRISPEECH in db.sh
train_parts="train-clean-100 train-clean-360 train-other-500"  # what makes the training set, as far as it is there
valid_parts="dev-clean dev-other"    # likewise the validation set
test_parts="test-clean test-other"   # a test set each
lowercase=true           # LibriSpeech is in capitals, which LLMs have hardly read; false keeps them
allow_incomplete=false   # true: leave out utterances that lack their recording or transcript, instead of stopping
max_utterances=0         # of every set at most so many, spread evenly over it; 0: all
download=false           # fetch the parts that are missing from openslr.org (7 of them: 60 GB)
url=https://www.openslr.org/resources/12  # where from; there are mirrors
debug_models=            # also make tiny models with random weights in this folder (run_debug.sh)
datadir=data             # folder for the data directories
nj=4                     # parallel jobs (not used: this takes a minute)

. ./path.sh
. utils/log.sh
. utils/parse_options.sh
. ./db.sh

librispeech=${librispeech:-${LIBRISPEECH:-}}
remedy="name the folder that holds train-clean-100 and so on: LIBRISPEECH in db.sh, or --local_data_opts \"--librispeech \
DIR\"; --local_data_opts \"--download true\" fetches what is missing"

present() {  # PART ...: those that are there
    for part in "$@"; do
        if [ -d "${librispeech}/${part}" ]; then echo "${part}"; fi
    done
}

gather() {  # SET PART ...: one data directory of several parts
    local dir=${datadir}/$1 work=${datadir}/local made=() part
    local source=${work}/$1.joined
    shift
    for part in "$@"; do
        python local/part.py --lowercase "${lowercase}" --allow_incomplete "${allow_incomplete}" \
            "${librispeech}/${part}" "${work}/${part}"
        made+=("${work}/${part}")
    done
    utils/combine_data.sh "${source}" "${made[@]}"
    if ((max_utterances > 0 && max_utterances < $(wc -l < "${source}/utt2spk"))); then
        utils/subset_data_dir.sh "${source}" "${max_utterances}" "${work}/subset"
        source=${work}/subset
    fi
    mkdir -p "${dir}"
    cp "${source}"/{wav.scp,text,utt2spk,spk2utt} "${dir}"  # continuations that are there stay
}

if [ "${download}" = true ] && [ -n "${librispeech}" ]; then
    local/download.sh --url "${url}" "${librispeech}" ${train_parts} ${valid_parts} ${test_parts}
fi

[ -d "${librispeech}" ] || die "LIBRISPEECH: '${librispeech}' is no folder; ${remedy}"
for part in ${train_parts} ${valid_parts} ${test_parts}; do
    [ -d "${librispeech}/${part}" ] || log "WARNING: ${librispeech} has no ${part}; going on without it. To add it," \
        "put it there (or --local_data_opts \"--download true\"), remove ${datadir}/.done/corpus.json and start again"
done
mapfile -t train < <(present ${train_parts})
mapfile -t valid < <(present ${valid_parts})
mapfile -t test < <(present ${test_parts})
if [ "${#train[@]}" -eq 0 ] || [ "${#valid[@]}" -eq 0 ]; then
    if [ -d "${librispeech}/LibriSpeech" ]; then remedy="did you mean ${librispeech}/LibriSpeech? Else ${remedy}"; fi
    die "${librispeech}: training needs at least one of ${train_parts// /, } and one of ${valid_parts// /, }; ${remedy}"
fi

gather train "${train[@]}"
gather valid "${valid[@]}"
for part in "${test[@]}"; do
    gather "${part//-/_}" "${part}"
done
for part in ${test_parts}; do
    [ -d "${librispeech}/${part}" ] || log "no ${datadir}/${part//-/_}: evaluate with --test_sets \"${test[*]//-/_}\""
done

if [ -n "${debug_models}" ]; then
    log "Make tiny models with random weights in ${debug_models}"
    python local/debug_models.py --text "${datadir}/train/text" --output_dir "${debug_models}"
fi

#!/usr/bin/env bash
# What does the filter find of errors whose places are known, and does training without them help? Behind stages 1 and 2:
#     base/plant_errors.sh
#     ./run.sh --stage compare --stop_stage compare --train_set train_planted \
#         --compare_config conf/compare_planted.yaml --compare_budget planted
# A copy of the training set gets wrong transcripts (10 %), noise at 0 dB (5 %) and duplicates (5 %), a recogniser
# transcribes it to text.asr beside the transcripts, and recall and precision of each rule are printed.
set -euo pipefail

source_set=train                        # data directory below datadir, with stage 2's continuations
datadir=data                            # folder for the data directories
expdir=exp                              # folder for the transcripts
recogniser=exp/base/recogniser_early40  # a cheap one: that of stage 1 after 40 percent of its training
filter_opts="--transcripts text.asr --min_snr_db 9 --near_duplicates 0.85"
seed=0                                  # which utterances
nj=2                                    # processes

. ./path.sh
. utils/log.sh
. utils/parse_options.sh

planted="${datadir}/${source_set}_planted"
log "Plant errors in a copy of ${datadir}/${source_set}: ${planted}"
python base/plant_errors.py --data_dir "${datadir}/${source_set}" --output_dir "${planted}" \
    --wav_dir "${datadir}/local/planted" --seed "${seed}" --nj "${nj}"
log "Transcribe it with ${recogniser}"
python -m blspkd.bin.transcribe --recogniser "${recogniser}" --data_dir "${planted}" \
    --output_dir "${expdir}/asr_${source_set}_planted"
cp "${expdir}/asr_${source_set}_planted/text" "${planted}/text.asr"
log "Filter it"
# shellcheck disable=SC2086  # these options are words
python -m blspkd.bin.data_dir filter "${planted}" "${planted}_filtered" --nj "${nj}" ${filter_opts}
python base/filter_recall.py --planted "${planted}/planted.json" --report "${planted}_filtered/filter.json"

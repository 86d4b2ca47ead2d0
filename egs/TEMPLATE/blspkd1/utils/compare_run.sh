#!/usr/bin/env bash
# One run of a comparison (stage 5 of blspkd.sh): a system that listens goes through stages 3 and 4 with its own
# configuration, one that reads through stage 4.
#   utils/compare_run.sh NUMBER PLAN OPTION ... --train_args TEXT --inference_args TEXT
# NUMBER is the line of PLAN, which `python -m blspkd.bin.compare plan` wrote; the options are those of blspkd.sh.
set -euo pipefail

number=$1
plan=$2
shift 2
options=("${@:1:$#-4}")
train_args=${*: -3:1}
inference_args=${*: -1:1}
IFS=$'\t' read -r name _ config seed reads steps systems max_utterances <<< "$(sed -n "${number}p" "${plan}")"
export BLSPKD_LIVE=${BLSPKD_LIVE:-100}  # bars of the jobs below travel through us

first_stage=train
if [ "${reads}" = "-" ]; then
    reads=
    train_args+=" --seed ${seed}"
    if [ "${steps}" -gt 0 ]; then train_args+=" --max_steps ${steps}"; fi
else
    first_stage=evaluate
fi
exec ./blspkd.sh "${options[@]}" --stage "${first_stage}" --stop_stage evaluate --skip_stages= --tag "${name}" \
    --results= --preamble= --reads="${reads}" --train_config "${config}" --train_args "${train_args}" \
    --inference_args "${inference_args} --systems ${systems} --max_utterances ${max_utterances}"

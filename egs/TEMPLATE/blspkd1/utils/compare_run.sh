#!/usr/bin/env bash
# One run of a comparison (stage 5 of blspkd.sh): a system that listens goes through stages 3 and 4 with its own
# configuration, one that reads, or decodes (or merges) the models of others, through stage 4. Snapshots of its training go
# through stage 4, on ALIGN_SETS only.
#   utils/compare_run.sh NUMBER PLAN ALIGN_SETS OPTION ... --expdir DIR --train_args TEXT --inference_args TEXT
# NUMBER is the line of PLAN, which `python -m blspkd.bin.compare plan` wrote; the options are those of blspkd.sh.
set -euo pipefail

number=$1
plan=$2
align_sets=$3
shift 3
options=("${@:1:$#-4}")
expdir=${*: -5:1}
train_args=${*: -3:1}
inference_args=${*: -1:1}
IFS=$'\t' read -r name system config seed reads steps systems max_utterances snapshots of inference merge \
    <<< "$(sed -n "${number}p" "${plan}")"
export BLSPKD_LIVE=${BLSPKD_LIVE:-100}  # bars of the jobs below travel through us

first_stage=train
if [ "${of}" != "-" ]; then
    if [ ! -d "${expdir}/${of}/model" ]; then
        echo "error: ${name}: its model is that of ${of}, which is not trained; see the log of that run" >&2
        exit 1
    fi
    mkdir -p "${expdir}/${name}"
    if [ -e "${expdir}/${name}/model" ] && [ ! -L "${expdir}/${name}/model" ] &&
            { [ "${merge}" = "-" ] || [ -n "$(ls -d "${expdir}/${name}"/checkpoint-* 2> /dev/null)" ]; }; then
        echo "error: ${expdir}/${name}/model is a model of its own; remove ${expdir}/${name}" >&2
        exit 1
    fi
    if [ "${merge}" = "-" ]; then
        ln -sfn "../${of}/model" "${expdir}/${name}/model"
        options+=(--align_sets=)  # alignment is the model's, and measured there
    else  # as fast as copying: done again every time, so that it is always what the configuration says
        models=() weights=()
        for part in ${merge}; do
            if [ "${part%=*}" = none ]; then models+=(none); else models+=("${expdir}/${part%=*}/model"); fi
            weights+=("${part##*=}")
        done
        if [ -L "${expdir}/${name}/model" ]; then rm "${expdir}/${name}/model"; fi
        utils/merge_models.sh --models "${models[@]}" --weights "${weights[@]}" --output "${expdir}/${name}/model"
    fi
    sed "s/^system: .*/system: '${system}'/" "${expdir}/${of}/config.yaml" > "${expdir}/${name}/config.yaml"
    first_stage=evaluate reads=
elif [ "${reads}" = "-" ]; then
    reads=
    train_args+=" --seed ${seed}"
    if [ "${steps}" -gt 0 ]; then train_args+=" --max_steps ${steps}"; fi
    if [ "${snapshots}" != "-" ]; then train_args+=" --snapshot_steps [${snapshots}]"; fi
else
    first_stage=evaluate
fi
if [ "${inference}" != "-" ]; then inference_args+=" ${inference}"; fi
# Agreement is with what the LLM answers when the text is typed; that run has ended, see compare.sh.
typed=$(awk -F '\t' '$5 == "transcript" {print $1; exit}' "${plan}")
if [ -n "${typed}" ]; then options+=(--typed "${expdir}/${typed}"); fi
options+=(--stop_stage evaluate --skip_stages= --results= --preamble= --train_config "${config}")
./blspkd.sh "${options[@]}" --stage "${first_stage}" --tag "${name}" --reads="${reads}" --train_args "${train_args}" \
    --inference_args "${inference_args} --systems ${systems} --max_utterances ${max_utterances}"
if [ -z "${align_sets}" ] || [ "${snapshots}" = "-" ]; then exit; fi
for step in ${snapshots//,/ }; do
    ./blspkd.sh "${options[@]}" --stage evaluate --expdir "${expdir}/${name}/snapshots" --tag "${step}" \
        --test_sets "${align_sets}" --inference_args "${inference_args} --systems [speech] --max_utterances ${max_utterances}"
done

# To be sourced by blspkd.sh, whose options and functions it uses: stage 5. Systems (files of conf/compare) are trained
# and evaluated side by side, each by compare_run.sh; then comparison.json, report.html and the tables in RESULTS.md.
# shellcheck shell=bash disable=SC2154,SC2086

template=$(dirname "$(readlink -f blspkd.sh)")
needs "${compare_config}" "it names systems, each a file of ${compare_config%.yaml}; copy compare.yaml and compare from ${template}/conf and adapt them"
for name in ${train_set} ${valid_set} ${align_sets}; do
    needs "${datadir}/${name}/continuation" "run stage 2 (continuations)"
done
compare=${expdir}/compare_${compare_budget}
mkdir -p "${compare}"
only_one "${compare}/.lock"
compare_sets=${test_sets}
for snr in ${noisy_set:+${noise_snr_db}}; do
    name=${noisy_set}_snr${snr}
    compare_sets+=" ${name}"
    if step "${datadir}/.done/noise_${name}.json" --redo --output "${datadir}/${name}/utt2dur" \
            --data "${datadir}/${noisy_set}" wav.scp segments reco2channel "text*" instruction utt2dur; then
        "${python}" -m blspkd.bin.add_noise "${datadir}/${noisy_set}" "${datadir}/${name}" \
            --wav_dir "${dumpdir}/${name}" --snr_db "${snr}" --nj "${nj}"
        steps_done
    fi
done
systems=(--config "${compare_config}" --conf_dir "${compare_config%.yaml}" --budget "${compare_budget}"
         --exp_dir "${compare}" --train_args="${compare_args}" --decode_config "${inference_config}")
"${python}" -m blspkd.bin.compare plan "${systems[@]}" --trained_before "${exp}" --num_jobs "${compare_jobs}" \
    "${inference_words[@]}" > "${compare}/plan.tsv"
gpus=()
if [ "${ngpu}" -gt 0 ] && [ "${train_cmd}" = utils/run.py ]; then gpus=(--gpu "${ngpu}"); fi
export python  # for utils/merge_models.sh
all_ran=true
num_runs=$(wc -l < "${compare}/plan.tsv")
num_first=$(awk -F '\t' '$10 == "-"' "${compare}/plan.tsv" | wc -l)  # the others decode models of these
typed=$(awk -F '\t' '$5 == "transcript" {print NR; exit}' "${compare}/plan.tsv")  # first: others are compared with it
for jobs in ${typed:+"${typed}:${typed}"} "1:${num_first}" "$((num_first + 1)):${num_runs}"; do
    if [ "${jobs%:*}" -gt "${jobs#*:}" ]; then continue; fi
    utils/run.py --keep_going true --max_jobs_run "${compare_jobs}" "${gpus[@]}" \
        BLSPKD_JOB="${jobs}" "${compare}/log/run.BLSPKD_JOB.log" \
        utils/compare_run.sh BLSPKD_JOB "${compare}/plan.tsv" "${align_sets}" "${given_options[@]}" \
        --num_procs 1 --nj 1 --test_sets "${compare_sets}" --expdir "${compare}" --train_args "${compare_args}" \
        --inference_args "${inference_args}" || { [ $? -ne 75 ] || exit 75; all_ran=false; }  # 75: stopped, goes on later
done
"${python}" -m blspkd.bin.compare table "${systems[@]}" --test_sets "${compare_sets}" "${inference_words[@]}"
compared=()
for name in $(cut -f 1 "${compare}/plan.tsv"); do
    if [ -f "${compare}/${name}/results.json" ]; then compared+=("${compare}/${name}"); fi
done
"${python}" -m blspkd.bin.report --exp_dirs "${compared[@]}" --output "${compare}/report.html"
if [ -f "${exp}/results.json" ]; then shown=${exp}; else shown=${compare}; fi
results=${results:-${shown}/RESULTS.md}
"${python}" -m blspkd.bin.results --exp_dir "${shown}" --stage_times "${shown}/stage_times.tsv" \
    --comparison "${compare}/comparison.json" --output "${results}" --preamble "${preamble}" \
    --command_line "${command_line}" > "${compare}/log/results.log"
log "tables: ${compare}/comparison.json, ${results}; pictures and sounds: ${compare}/report.html"
${all_ran} || die "some systems are missing from them, see above; the same command tries them again"

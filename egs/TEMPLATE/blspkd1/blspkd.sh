#!/usr/bin/env bash
# From a corpus to an LLM that follows spoken instructions, in four stages (BLSP-KD, arXiv 2405.19041), and a fifth:
#   1 data            local/data.sh makes the data directories; they are checked
#   2 continuations   the LLM continues the transcripts
#   3 train           the adapter learns to make the LLM continue speech as it continues text
#   4 evaluate        instructions that the training never saw; tables on the screen and in exp/<tag>/RESULTS.md
#   5 compare         only when asked for: baselines, ablations and additions (conf/compare.yaml), over several seeds
# A number or name chooses a stage: `./run.sh --stage train --stop_stage 4`. What is done is skipped, what was killed
# goes on, and what was made with other options is reported, never silently used again.

# shellcheck disable=SC2086,SC2154  # commands (cmd.sh) and lists of sets are words; split_words makes arrays
set -euo pipefail

# Every option is declared here, once (see utils/parse_options.sh).
stage=data                                  # first stage to run: number or name
stop_stage=evaluate                         # last stage to run: number or name
skip_stages=                                # stages to leave out, e.g. "1 train"
nj=4                                        # parallel jobs
ngpu=1                                      # GPUs that train together on one machine; 0: CPU only
num_nodes=1                                 # machines that train together
num_procs=1                                 # processes that train together when ngpu is 0
num_threads=1                               # CPU threads of a training process
max_restarts=3                              # how often processes that train together are started again when one dies
train_set=train                             # name of the training set below datadir
valid_set=valid                             # name of the validation set
test_sets="test"                            # names of the test sets, separated by spaces
llm=Qwen/Qwen2.5-0.5B-Instruct              # chat LLM: Hugging Face id or folder
speech_encoder=openai/whisper-small         # speech encoder: Hugging Face id or folder
local_data_opts=                            # stage 1: options for local/data.sh
local_data_outputs=                         # stage 1: what local/data.sh makes besides data directories, e.g. models
allow_pipes=false                           # stage 1: run the commands (ending in "|") that wav.scp holds
filter_opts=                                # stage 1: options of `data_dir filter`; given: train on TRAIN-SET_filtered
continuation_config=conf/continuation.yaml  # stage 2: prompt and sampling
continuation_args=                          # stage 2: what overrides the configuration, e.g. "--max_new_tokens 40"
continuation_gpus=1                         # stage 2: GPUs of one job (vLLM's tensor_parallel_size), unless ngpu is 0
max_bad_ratio=0.5                           # stage 2: largest share of the continuations that its filters may drop
train_config=conf/train.yaml                # stage 3: model, loss, data, training
pack=false                                  # stage 3: train from copies of the sets in few large files, dump/packed
train_args=                                 # stage 3: what overrides it, e.g. "--learning_rate 1e-4 --bf16 true"
inference_config=conf/decode.yaml           # stage 4: tasks and decoding
inference_args=                             # stage 4: what overrides it, e.g. "--max_utterances 100"
align_sets=                                 # stages 2, 4: sets whose alignment is measured too, e.g. "test"
compare_config=conf/compare.yaml            # stage 5: systems (files of conf/compare), seeds, budgets
compare_budget=full                         # stage 5: one of the budgets in compare_config
compare_jobs=1                              # stage 5: systems that train side by side
compare_args=                               # stage 5: what overrides every system's configuration, e.g. "--bf16 false"
noisy_set=                                  # stage 5: test set that is also heard with noise; empty: none
noise_snr_db="20 10 5"                      # stage 5: its signal-to-noise ratios
reads=                                      # stage 4: instead of listening, read "transcript" or a recogniser's output
transcribe_args=                            # stage 4: options of that recogniser, e.g. "--language en --dtype bfloat16"
typed=                                      # stage 4: agreement is with the typed answers of this folder; empty: exp/<tag>
results=                                    # stage 4: file for the tables; empty: RESULTS.md in exp/<tag>
preamble=                                   # stage 4: Markdown file to put above the tables
datadir=data                                # folder of the data directories
dumpdir=dump                                # folder for audio that the commands of wav.scp make
expdir=exp                                  # folder of the experiments
tag=                                        # name of the experiment; empty: the name of train_config
python=python                               # Python interpreter

command_line=$(printf '%q ' "$0" "$@"); given_options=("$@")
. utils/log.sh
. utils/parse_options.sh
[ $# -eq 0 ] || die "unexpected '$1': options start with --, and a value with spaces needs quotes"
at_least 1 nj num_nodes num_procs num_threads compare_jobs continuation_gpus; at_least 0 max_restarts
[[ ${given_options[*]} != *BLSPKD_@(JOB|NODE)* ]] || # Kaldi's slurm.pl and queue.pl replace them wherever they stand
    die "BLSPKD_JOB and BLSPKD_NODE stand for numbers of jobs; choose another name"
. ./path.sh; . ./cmd.sh
stages="data continuations train evaluate compare"
. utils/stages.sh
choose_stages

exp=${expdir}/${tag:-$(basename "${train_config}" .yaml)}
gpu_per_job=$((ngpu > 0 ? 1 : 0))
corpus_sets=$(unique_words "${train_set} ${valid_set} ${test_sets}")  # what local/data.sh makes
corpus_train_dir=${datadir}/${train_set}
train_set=${train_set}${filter_opts:+_filtered}
all_sets=$(unique_words "${train_set} ${valid_set} ${test_sets}")
split_words local_data_opts filter_opts continuation_args train_args inference_args transcribe_args

if stage data; then
    needs local/data.sh "write it; it makes these folders in ${datadir}: ${corpus_sets}"
    if step "${datadir}/.done/corpus.json" --value "local_data_opts=${local_data_opts}" --code local $([ ! -d base ] || echo --code base) \
            --outputs "${datadir}/%/wav.scp" "${corpus_sets}" --outputs % "${local_data_outputs}" \
            --remedy "To make the corpus again, remove ${datadir}; to keep it, give other --datadir and --local_data_opts"
    then
        utils/run.py --screen true "${datadir}/log/data.log" local/data.sh --nj "${nj}" "${local_data_words[@]}"
        steps_done
    fi
    for name in ${corpus_sets}; do
        if grep -q '|[[:space:]]*$' "${datadir}/${name}/wav.scp"; then
            "${python}" -m blspkd.bin.data_dir materialize "${datadir}/${name}" "${dumpdir}/${name}" \
                --allow_pipes "${allow_pipes}" --nj "${nj}"
        fi
    done
    if [ -n "${filter_opts}" ] && step "${datadir}/.done/filter.json" --redo --value "filter_opts=${filter_opts}" \
            --data "${corpus_train_dir}" wav.scp segments reco2channel utt2spk text "text.*" \
            $(side_tables "${corpus_train_dir}") --model_in transcripts --output "${datadir}/${train_set}/filter.json"; then
        test_dirs=(${test_sets})
        utils/in_pieces.sh --python "${python}" --nj "${nj}" filter "${corpus_train_dir}" "${datadir}/${train_set}" \
            --test_dirs "${test_dirs[@]/#/"${datadir}/"}" "${filter_words[@]}"
        steps_done
    fi
    for name in ${all_sets}; do
        dir=${datadir}/${name}
        if step "${datadir}/.done/check_${name}.json" --redo --output "${dir}/utt2dur" \
                --data "${dir}" wav.scp segments reco2channel utt2spk text; then
            utils/in_pieces.sh --python "${python}" --nj "${nj}" validate "${dir}"
            utils/in_pieces.sh --python "${python}" --nj "${nj}" durations "${dir}"
            steps_done
        fi
    done
fi

if stage continuations; then
    for name in ${train_set} ${valid_set} ${align_sets}; do
        dir=${datadir}/${name}
        needs "${dir}/utt2dur" "run stage 1 (data)"
        if step "${datadir}/.done/continuations_${name}.json" --model llm "${llm}" --text "${continuation_config}" \
                --value "continuation_args=${continuation_args}" --data "${dir}" text --output "${dir}/continuation" \
                --remedy "To write them again, remove ${dir}/continuation; to keep them, give another --datadir"; then
            ${generate_cmd} --gpu "$((gpu_per_job * continuation_gpus))" BLSPKD_JOB="1:${nj}" "${dir}/log/generate_continuations.BLSPKD_JOB.log" \
                "${python}" -m blspkd.bin.generate_continuations --config "${continuation_config}" --llm "${llm}" \
                --data_dir "${dir}" --job BLSPKD_JOB --num_jobs "${nj}" "${continuation_words[@]}"
            { grep -h "nothing to do" "${dir}/log/generate_continuations.${nj}.log" || true; } | tail -n 1
            "${python}" -m blspkd.bin.merge_continuations --data_dir "${dir}" --max_bad_ratio "${max_bad_ratio}"
            steps_done
        fi
    done
fi

if stage train; then
    for name in ${train_set} ${valid_set}; do
        needs "${datadir}/${name}/utt2dur" "run stage 1 (data)"
        needs "${datadir}/${name}/continuation" "run stage 2 (continuations)"
    done
    if step "${exp}/.done/train.json" --model llm "${llm}" --model speech_encoder "${speech_encoder}" \
            --text "${train_config}" --words "train_args=${train_args}" --ignore_unfinished "gradient_accumulation recount recount_by recount_weight" \
            --model_in init_from --model_in init_ctc_head --ignore "num_workers log_steps keep_checkpoints chunk_mib most_positions cache_dir hang_minutes shard_llm" \
            --data "${datadir}/${train_set}" wav.scp segments reco2channel text continuation continuation.info.json \
            $(side_tables "${datadir}/${train_set}") \
            --data "${datadir}/${valid_set}" wav.scp segments reco2channel text continuation continuation.info.json \
            --output "${exp}/model" --partial "${exp}/checkpoint-*" \
            --remedy "To train again, remove ${exp}; to keep it, give another --tag"; then
        if [ "${pack}" = true ]; then . utils/pack.sh; else packed_dir=; fi
        rm -f "${exp}/rendezvous"*
        ${train_cmd} --gpu "${ngpu}" --num_threads "$((num_threads * (ngpu > 0 ? ngpu : num_procs)))" BLSPKD_NODE="1:${num_nodes}" \
            "${exp}/$(if [ "${num_nodes}" -gt 1 ]; then echo train.BLSPKD_NODE.log; else echo train.log; fi)" \
            utils/launch.sh --python "${python}" --ngpu "${ngpu}" --num_nodes "${num_nodes}" --max_restarts "${max_restarts}" \
            --num_procs "${num_procs}" --num_threads "${num_threads}" --rendezvous "${exp}/rendezvous" \
            blspkd.bin.train --config "${train_config}" --llm "${llm}" --speech_encoder "${speech_encoder}" \
            --train_dir "${packed_dir:-${datadir}}/${train_set}" --valid_dir "${packed_dir:-${datadir}}/${valid_set}" --output_dir "${exp}" "${train_words[@]}"
        steps_done
    fi
fi

if stage evaluate; then
    if [ -z "${reads}" ]; then
        needs "${exp}/model" "run stage 3 (train)"
        decoder=(--model_dir "${exp}/model")
        decoder_identity=(--model model "${exp}/model" --model llm "${llm}" --model speech_encoder "${speech_encoder}"
                          --output "${exp}/decode_*_%s")
    else
        decoder=(--llm "${llm}" --prompt_of "${datadir}/${train_set}" --system "$(basename "${exp}")")
        if [ "${reads}" = transcript ]; then reader="[text]"; else reader="[cascade] --transcript_style ${datadir}/${train_set}"; fi
        inference_words=(--systems ${reader} "${inference_words[@]}" --transcripts "${exp}/asr_{set}")
        decoder_identity=(--model llm "${llm}" --model reads "${reads}" --value "transcribe_args=${transcribe_args}"
                          --output "${exp}/decode_*_%s.*" --data "${datadir}/${train_set}" continuation.info.json text)
        align_sets=
    fi
    to_decode=()
    for name in ${test_sets}; do
        dir=${datadir}/${name}
        needs "${dir}/utt2dur" "run stage 1 (data)"
        if step "${exp}/.done/decode_${name}.json" "${decoder_identity[@]//%s/${name}}" --text "${inference_config}" \
                --ignore "metrics normalize bleu_tokenize by_first_word by_count means typed num_bootstrap num_examples" \
                --value "inference_args=${inference_args}" \
                --data "${dir}" wav.scp segments reco2channel "text*" instruction \
                --remedy "To decode again, remove ${exp}/decode_*_${name}{,.*}; to keep it, copy ${exp} to another --tag"
        then
            to_decode+=("${dir}")
        fi
    done
    if [ "${#to_decode[@]}" -gt 0 ]; then
        num_jobs=$((nj < ${#to_decode[@]} ? nj : ${#to_decode[@]}))
        if [ -n "${reads}" ] && [ "${reads}" != transcript ]; then
            ${decode_cmd} --gpu "${gpu_per_job}" BLSPKD_JOB="1:${num_jobs}" "${exp}/log/transcribe.BLSPKD_JOB.log" \
                "${python}" -m blspkd.bin.transcribe --job BLSPKD_JOB --num_jobs "${num_jobs}" --recogniser "${reads}" \
                --data_dir "${to_decode[@]}" --output_dir "${exp}/asr_{set}" "${transcribe_words[@]}"
        fi
        ${decode_cmd} --gpu "${gpu_per_job}" BLSPKD_JOB="1:${num_jobs}" "${exp}/log/decode.BLSPKD_JOB.log" \
            "${python}" -m blspkd.bin.decode --job BLSPKD_JOB --num_jobs "${num_jobs}" --config "${inference_config}" \
            "${decoder[@]}" --data_dir "${to_decode[@]}" --exp_dir "${exp}" "${inference_words[@]}"
        steps_done
    fi
    [ -f "${exp}/results.json" ] || rm -f "${exp}"/.done/align_*.json  # which have rows in it
    scoring=("${inference_words[@]}" ${typed:+--typed "${typed}"})
    if step "${exp}/.done/score.json" --redo --text "${inference_config}" --value "inference_args=${inference_args}" \
            --value "test_sets=${test_sets}" --data "${exp}" "decode_*/hyp.jsonl" --output "${exp}/results.json" \
            --data "${typed:-${exp}}" "decode_*.text/hyp.jsonl"; then
        "${python}" -m blspkd.bin.score --config "${inference_config}" --exp_dir "${exp}" --test_sets "${test_sets}" "${scoring[@]}"
        steps_done
    fi
    for name in ${align_sets}; do
        dir=${datadir}/${name}
        needs "${dir}/continuation" "run stage 2 (continuations)"
        if step "${exp}/.done/align_${name}.json" --redo --model model "${exp}/model" --model llm "${llm}" \
                --model speech_encoder "${speech_encoder}" --value "inference_args=${inference_args}" \
                --text "${inference_config}" --data "${datadir}/${train_set}" text \
                --data "${dir}" wav.scp segments reco2channel text continuation word_times \
                --output "${exp}/align_${name}/summary.json"; then
            ${decode_cmd} --gpu "${gpu_per_job}" "${exp}/log/align_${name}.log" \
                "${python}" -m blspkd.bin.align --config "${inference_config}" --model_dir "${exp}/model" \
                --data_dir "${dir}" --exp_dir "${exp}" --train_dir "${datadir}/${train_set}" "${inference_words[@]}"
            steps_done
        fi
    done
    if step "${exp}/.done/results.json" --redo --data "${exp}" results.json --text "${preamble}" --output "${results:-${exp}/RESULTS.md}"
    then
        stage_times "${exp}/stage_times.tsv" "${datadir}/.done" "${exp}/.done"
        compared=$(ls "${expdir}/compare_${compare_budget}/comparison.json" 2> /dev/null || true)
        "${python}" -m blspkd.bin.results --exp_dir "${exp}" --stage_times "${exp}/stage_times.tsv" \
            --output "${results:-${exp}/RESULTS.md}" --preamble "${preamble}" --comparison "${compared}" --command_line "${command_line}"
        steps_done
    else
        "${python}" -m blspkd.bin.results --exp_dir "${exp}" --stage_times "${exp}/stage_times.tsv"
    fi
fi

if stage compare; then . utils/compare.sh; fi
log "finished"

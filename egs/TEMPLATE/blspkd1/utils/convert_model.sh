#!/usr/bin/env bash
# A GGUF file or a Whisper model of CTranslate2 -> a Hugging Face folder: utils/convert_model.sh SOURCE FOLDER
set -euo pipefail

# shellcheck source=path.sh
. "$(dirname "$0")/../path.sh"

exec "${python:-python}" -m blspkd.bin.convert_model "$@"

#!/usr/bin/env bash
# Join data directories of different utterances: utils/combine_data.sh DEST_DIR SRC_DIR ...
set -euo pipefail

exec "$(dirname "$0")/data_dir.sh" combine "$@"

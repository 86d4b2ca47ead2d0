#!/usr/bin/env bash
# Copy a data directory under other names: utils/copy_data_dir.sh [--utt-prefix P] [--spk-prefix P] SRC_DIR DEST_DIR
set -euo pipefail

exec "$(dirname "$0")/data_dir.sh" copy "$@"

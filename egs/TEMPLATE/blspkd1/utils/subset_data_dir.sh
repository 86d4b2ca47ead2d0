#!/usr/bin/env bash
# Write some utterances to a new directory: utils/subset_data_dir.sh [--first | --last | --shortest | --per-spk | --speakers] SRC_DIR NUMBER DEST_DIR
set -euo pipefail

exec "$(dirname "$0")/data_dir.sh" subset "$@"

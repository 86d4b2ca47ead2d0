#!/usr/bin/env bash
# Cut a data directory into DIR/splitNUMBER/1 ...: utils/split_data.sh [--per-utt] DIR NUMBER
set -euo pipefail

exec "$(dirname "$0")/data_dir.sh" split "$@"

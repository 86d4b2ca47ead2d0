#!/usr/bin/env bash
# Open every recording and write utt2dur: utils/get_utt2dur.sh [--nj N] DIR
set -euo pipefail

exec "$(dirname "$0")/data_dir.sh" durations "$@"

#!/usr/bin/env bash
# Report everything that is wrong with a data directory: utils/validate_data_dir.sh [--no-text] [--no-wav] DIR
set -euo pipefail

exec "$(dirname "$0")/data_dir.sh" validate "$@"

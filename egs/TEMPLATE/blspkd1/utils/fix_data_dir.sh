#!/usr/bin/env bash
# Remove what cannot be used and sort the rest; a backup is kept in DIR/.backup: utils/fix_data_dir.sh DIR
set -euo pipefail

exec "$(dirname "$0")/data_dir.sh" fix "$@"

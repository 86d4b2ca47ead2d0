#!/usr/bin/env bash
# Trained models mixed by weight: utils/merge_models.sh --models MODEL ... --weights WEIGHT ... --output FOLDER
set -euo pipefail

# shellcheck source=path.sh
. "$(dirname "$0")/../path.sh"

exec "${python:-python}" -m blspkd.bin.merge "$@"

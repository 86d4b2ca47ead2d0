#!/usr/bin/env bash
# Work on data directories: utils/data_dir.sh VERB [options] ...; `utils/data_dir.sh --help` lists the verbs.
# The scripts with Kaldi's names (validate_data_dir.sh, subset_data_dir.sh ...) call this one, with Kaldi's options.
set -euo pipefail

# shellcheck source=path.sh
. "$(dirname "$0")/../path.sh"

words=()
for word in "$@"; do
    case ${word} in
        --no-feats | --no-spk-sort | --non-print) ;;  # Kaldi's validate_data_dir.sh; there are no features here
        *) words+=("${word}") ;;
    esac
done
exec "${python:-python}" -m blspkd.bin.data_dir "${words[@]}"

#!/usr/bin/env bash
# Run a command for the N-th word of a list, which takes the place of every {}:
#   utils/pick.sh 2 "test_clean test_other" decode --data_dir data/{}
# With it, numbered jobs (JOB=1:2) work on things that have names.
set -euo pipefail

number=$1
read -r -a words <<< "$2"
word=${words[number - 1]}
shift 2
exec "${@//"{}"/"${word}"}"

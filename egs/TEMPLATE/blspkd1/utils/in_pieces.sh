#!/usr/bin/env bash
# A verb of data_dir that a large data directory makes long, by several jobs (data_cmd in cmd.sh), each of which takes one
# piece of it after the other; small ones are done here and now:
#   utils/in_pieces.sh [--nj N] validate|durations|filter|stats DIR [ARGUMENT ...]
# What comes out does not depend on the number of jobs. The last call puts their results together, and does what they
# have left: the same command goes on where it was killed.
set -euo pipefail

nj=4                # parallel jobs, and processes where one call does it all
piece_size=100000   # utterances of a piece; directories up to this size have one
python=python       # Python interpreter

utils=$(dirname "$0")
. "${utils}/log.sh"
. "${utils}/parse_options.sh"
at_least 1 nj piece_size
[ $# -ge 2 ] || die "usage: utils/in_pieces.sh [--nj N] validate|durations|filter|stats DIR [ARGUMENT ...]"
[ -n "${BLSPKD_PID:-}" ] || . "${utils}/../path.sh"  # else blspkd.sh calls
. ./cmd.sh

verb=$1
dir=$2
command=("${python}" -m blspkd.bin.data_dir "$@")
if [ "${piece_size}" -ne 100000 ]; then command+=(--piece_size "${piece_size}"); fi
lines=$(wc -l 2> /dev/null < "${dir}/utt2spk" || echo 0)
pieces=$(((lines + piece_size - 1) / piece_size))
num_jobs=$((pieces < nj ? pieces : nj))
if [ "${num_jobs}" -gt 1 ]; then
    ${data_cmd:-utils/run.py} BLSPKD_JOB="1:${num_jobs}" "${dir}/log/${verb}.BLSPKD_JOB.log" \
        "${command[@]}" --job BLSPKD_JOB --num_jobs "${num_jobs}"
fi
case ${verb} in durations | filter) command+=(--nj "${nj}") ;; esac
exec "${command[@]}"

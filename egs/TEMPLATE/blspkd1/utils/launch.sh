#!/usr/bin/env bash
# Start a Python module as one process, or as several that train together (torchrun): one per GPU, or, without GPUs, as
# many as asked for; on one or several machines.
#   utils/launch.sh [options] MODULE [ARGUMENT ...]
# With several machines, this runs once on each; they find each other through a file that all of them see. Under Slurm,
# every attempt at a job has a file of its own: one that a requeued job left says that the training is closed. Several
# processes of which one dies are started again; a single one is not. The exit status is 75 where a signal (SIGTERM or
# SIGUSR1, to us or to any of the processes) has stopped a training: the same command goes on later.
set -euo pipefail

python=python    # Python interpreter
ngpu=0           # GPUs, and so processes, on this machine
num_procs=1      # processes on this machine when ngpu is 0
num_nodes=1      # machines
num_threads=1    # CPU threads of a process
max_restarts=3   # how often processes that have died are started again
rendezvous=      # with several machines: beginning of the file's path; it must not be there when the first one starts

# shellcheck source=utils/parse_options.sh
. "$(dirname "$0")/parse_options.sh"

export OMP_NUM_THREADS=${num_threads}
# oneDNN (CPU) keeps code and memory for every shape that it has seen, and each batch has another one: a third less memory
# in an alignment of egs/smollm2, as fast
export ONEDNN_PRIMITIVE_CACHE_CAPACITY=${ONEDNN_PRIMITIVE_CACHE_CAPACITY:-16}
processes=$((ngpu > 0 ? ngpu : num_procs))
if [ "${num_nodes}" -gt 1 ]; then
    if [ -n "${SLURM_JOB_ID:-}" ]; then
        rendezvous+=.${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID}}.${SLURM_RESTART_COUNT:-0}
    fi
    exec "${python}" -m blspkd.bin.launch --nnodes "${num_nodes}" --nproc_per_node "${processes}" \
        --max_restarts "${max_restarts}" \
        --rdzv_backend c10d --rdzv_id blspkd --rdzv_endpoint "$(realpath "${rendezvous}")" \
        --rdzv_conf store_type=file,join_timeout=7200 -m "$@"
elif [ "${processes}" -gt 1 ]; then
    exec "${python}" -m blspkd.bin.launch --standalone --nproc_per_node "${processes}" \
        --max_restarts "${max_restarts}" -m "$@"
else
    exec "${python}" -m "$@"
fi

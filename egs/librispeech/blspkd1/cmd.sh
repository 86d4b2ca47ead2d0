# To be sourced: what runs the jobs of a recipe.
#
# The one line to change is `cluster=`. On this machine: utils/run.py. On a Slurm cluster: utils/slurm.py, with sbatch's
# options for this site (`utils/slurm.py --help`), for example
#   cluster="utils/slurm.py --partition gpu --time 24:00:00 --mem 32G"
# The jobs need this folder, the models and the data at the same path on every machine.
#
# Elsewhere: Kaldi's or ESPnet's queue.pl, ssh.pl, ... , which are called in the same way (`$cmd --gpu 1 JOB=1:4
# log/x.JOB.log command JOB`): put it into a folder of your PATH, with its configuration in conf/queue.conf, and name it
# here. Kaldi's scripts hand the words of a command to a shell: give them no $, ` or ; in options (ours take any).
# shellcheck shell=bash disable=SC2034

cluster=utils/run.py

data_cmd=${cluster}      # stage 1: pieces of large data directories
generate_cmd=${cluster}  # stage 2: the LLM writes; one GPU per job, or none
train_cmd=${cluster}     # stage 3: --ngpu GPUs per job, one job per machine
decode_cmd=${cluster}    # stage 4: one job per test set; one GPU per job, or none

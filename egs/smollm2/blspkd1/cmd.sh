# To be sourced: what runs the jobs of a recipe.
#
# On this machine: utils/run.py. On a cluster: Kaldi's or ESPnet's slurm.pl, queue.pl, ... , which are called in the
# same way (`$cmd --gpu 1 JOB=1:4 log/x.JOB.log command JOB`): put it into a folder of your PATH, with its configuration
# (partitions, what --gpu means) in conf/slurm.conf or conf/queue.conf, and name it here, for example
#   cluster="slurm.pl --mem 16G"
# The jobs need this folder, the models and the data at the same path on every machine.
# Kaldi's scripts hand the words of a command to a shell: give them no $, ` or ; in options (utils/run.py takes any).
# shellcheck shell=bash disable=SC2034

cluster=utils/run.py

generate_cmd=${cluster}  # stage 2: the LLM writes; one GPU per job, or none
train_cmd=${cluster}     # stage 3: --ngpu GPUs per job, one job per machine
decode_cmd=${cluster}    # stage 4: one job per test set; one GPU per job, or none

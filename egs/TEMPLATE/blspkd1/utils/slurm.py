#!/usr/bin/env python3
"""Run jobs on a Slurm cluster and wait for them; takes the place of run.py, with the same command line.

    slurm.py [options] [JOB=first:last] LOG COMMAND [ARGUMENT ...]
    slurm.py --partition gpu --time 8:00:00 --gpu 1 JOB=1:4 exp/log/decode.JOB.log decode --part JOB

The jobs become an array; if the name ends in NODE (NODE=1:2), they are machines that work together: one Slurm job with
so many nodes. Options, each with a value:
    --max_jobs_run N   at most N jobs at a time; default: as many as Slurm lets run
    --keep_going true  start waiting jobs even when one has failed
    --num_threads N    CPUs of one job
    --gpu N            GPUs of one job, on one node
    --screen true      show the jobs' lines here too, not only in their logs
    --requeues N       how often a job may go back into the queue because its time was up; default 100
    --retries N        how often a job starts again that was killed, or whose node failed; default 2
All others are sbatch's, `true` standing for an option without a value: --partition gpu --time 8:00:00 --mem 32G
--account x --exclusive true. Logs, progress and reports of failures are those of run.py, which runs each job on its
node.

120 s before the time limit (--signal B:USR1@300: 300 s) a job gets SIGUSR1. A training then saves and ends with
status 75; that, and any failure after the signal, puts the job back into the queue, to go on where it was. What was
submitted, and what Slurm said, is in the folder `slurm` beside the log. When this program ends, however it ends, its
jobs are cancelled; those that the death of this machine left in the queue are waited for by the same command.
"""

import sys
import time

from runner.account import conclude, stopped
from runner.refusals import tell_refusals
from runner.request import parse
from runner.screen import Screen
from runner.slurm_queue import cancel_all
from runner.stop import Stopped, StopSignals
from runner.submission import Submission
from runner.watch import Watch
from runner.watchdog import Watchdog


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("--help", "-h"):
        print(__doc__)
        sys.exit(0 if len(sys.argv) > 1 else 1)
    request = parse(sys.argv[1:])
    submission = Submission(request)
    jobs = submission.jobs()
    screen = Screen(echo=request.options.get("screen") == "true")
    stop_signals = StopSignals()
    watchdog = Watchdog(cancel_all)
    started = time.monotonic()
    queue = submission.queue(screen)
    watchdog.add(queue.job)
    try:
        failed = Watch(submission, queue, jobs, screen).run(stop_signals)
        status = conclude(screen, request, jobs, failed, time.monotonic() - started)
    except Stopped as signal_number:
        status = stopped(screen, signal_number.args[0])
    submission.number_file.unlink(missing_ok=True)
    watchdog.remove(queue.job)  # not after an error: then it cancels
    watchdog.close()
    sys.exit(status)


if __name__ == "__main__":
    tell_refusals("slurm.py", main)

#!/usr/bin/env python3
"""Run jobs on this machine, several at a time; the stand-in for Kaldi's run.pl, queue.pl and slurm.pl.

    run.py [options] [JOB=first:last] LOG COMMAND [ARGUMENT ...]
    run.py --num_threads 2 JOB=1:4 exp/log/decode.JOB.log decode --part JOB

`JOB`, or whatever name stands before the `=`, becomes the job's number in LOG and in the arguments, where it stands
as a word: `JOB`, `part.JOB`, not `JOBS` or `MY_JOB`. Everything else reaches the command unchanged: no shell reads
it, so that `;`, `|` or `$(...)` is text (for a pipeline: `bash -c "..."`). Options, each with a value; those that
only a cluster needs are accepted and ignored:
    --max_jobs_run N   at most N jobs at a time; default: the number of CPU cores divided by --num_threads
    --keep_going true  start waiting jobs even when one has failed
    --num_threads N    CPU threads of one job
    --gpu N            GPUs of one job: every running job gets its own; 0 hides them all; not given: no change
    --screen true      show the job's lines here too, not only in its log
Each job's output goes to its log. Progress bars are shown here (one live line on a terminal, else one line every
30 s); the log keeps only their last state. When a job fails, the end of its log, its path and the command to run it
again are shown at once; running jobs go on, waiting ones do not start, and the exit status is 1. It is 75 where a job
ended with that, as a training does that a signal has stopped: the same command goes on later; of a single job that was
killed, it is 128 + the signal's number. When this program ends, however it ends, its jobs end too; a training has a
minute to write a checkpoint (after SIGUSR1, the warning of a scheduler, all the time that this leaves), unless we are
told a second time.
"""

import collections
import math
import os
import selectors
import signal
import sys
import time
from pathlib import Path

from runner.account import conclude, may_start, now, stopped
from runner.job import Job, signal_group
from runner.memory import note_alive, record_peak, tree_mib
from runner.refusals import tell_refusals
from runner.request import count, fail, parse
from runner.screen import Screen
from runner.stop import Stopped, StopSignals
from runner.watchdog import Watchdog, end_groups

GRACE_SECONDS = 60  # between SIGTERM and SIGKILL
SILENT_SECONDS = 2  # of it, before we say what we wait for
MEMORY_SECONDS = 2  # between two looks at the memory in use


class Slots:
    """How many jobs may run at a time, and on which GPUs."""

    def __init__(self, options: dict):
        self.free = count(options, "max_jobs_run",
                          max(1, cpu_count() // count(options, "num_threads", 1, 1)), 1)
        self.gpus_per_job = count(options, "gpu", 0, 0) if "gpu" in options else None
        self.gpus = visible_gpus()
        if self.gpus_per_job:
            if self.gpus_per_job > len(self.gpus):
                fail(f"a job needs {self.gpus_per_job} GPU(s), this machine shows {len(self.gpus)}; "
                     "--ngpu 0 runs on the CPU")
            self.free = min(self.free, len(self.gpus) // self.gpus_per_job)

    def take(self, job: Job) -> None:
        self.free -= 1
        if self.gpus_per_job is not None:
            job.gpus, self.gpus = self.gpus[:self.gpus_per_job], self.gpus[self.gpus_per_job:]
            job.environment["CUDA_VISIBLE_DEVICES"] = ",".join(job.gpus)

    def give_back(self, job: Job) -> None:
        self.free += 1
        self.gpus = job.gpus + self.gpus


def cpu_count() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list:
    """Names of the GPUs that this process may use."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu for gpu in chosen.split(",") if gpu.strip() not in ("", "-1")]
    return [str(position) for position in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def run(jobs: list, slots: Slots, screen: Screen, keep_going: bool) -> list:
    """Run the jobs; returns those that failed, in the order of failing. Raises Stopped."""
    stop_signals = StopSignals()
    waiting, running, failed = collections.deque(jobs), [], []
    peak, next_look = 0, 0.0
    selector = selectors.DefaultSelector()
    watchdog = Watchdog(end_groups)

    while running or (waiting and may_start(failed, keep_going)):
        while waiting and slots.free and may_start(failed, keep_going) and not stop_signals.received:
            job = waiting.popleft()
            slots.take(job)
            job.environment.update(screen.environment())
            job.start()
            running.append(job)
            if job.process:
                watchdog.add(job.process.pid)
                selector.register(job.process.stdout, selectors.EVENT_READ, job)

        for key, _ in selector.select(timeout=0.1):
            if not key.data.read():
                selector.unregister(key.fileobj)
        for job in [job for job in running if job.ended()]:
            if job.process:
                if not job.at_end:
                    selector.unregister(job.process.stdout)
                job.close()
                watchdog.remove(job.process.pid)
            running.remove(job)
            slots.give_back(job)
            peak = max(peak, job.peak_mib)
            if job.status != 0 and not stop_signals.received:
                failed.append(job)
                if keep_going or len(failed) == 1:
                    screen.say(job.failure(), error=True)
        if time.monotonic() > next_look:
            peak = max(peak, tree_mib())
            note_alive()
            next_look = time.monotonic() + MEMORY_SECONDS
        screen.show(jobs)
        if stop_signals.look():
            stop(running, stop_signals.received, screen)
            break
    watchdog.close()
    record_peak(peak)
    warned = stop_signals.received[:1] == [signal.SIGUSR1]
    if stop_signals.received and not (warned and all(job.status == 0 for job in jobs)):  # they came to their end
        raise Stopped(stop_signals.received[0])
    return failed


def stop(running: list, signals: list, screen: Screen) -> None:
    """End the jobs; by force after a while, or when told a second time."""
    told, begin, said = len(signals), time.monotonic(), False
    patience = math.inf if signals[0] == signal.SIGUSR1 else GRACE_SECONDS
    for job in running:
        signal_group(job.process.pid, signal.SIGTERM)
    while running:
        seconds = time.monotonic() - begin
        by_force = seconds > patience or len(signals) > told
        if by_force:
            for job in running:
                signal_group(job.process.pid, signal.SIGKILL)
        elif seconds > SILENT_SECONDS and not said:
            screen.say(f"{now()} (run.py) stopping; a training writes a checkpoint first (a second time: at once)",
                       error=True)
            said = True
        for job in list(running):
            job.read()
            if job.ended() and (job.at_end or by_force):  # its own children may take longer than itself
                job.close()
                running.remove(job)
        time.sleep(0.05)


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("--help", "-h"):
        print(__doc__)
        sys.exit(0 if len(sys.argv) > 1 else 1)
    request = parse(sys.argv[1:])
    jobs = [Job(number, request.fill(request.log, number), request.words(number)) for number in request.numbers]
    screen = Screen(echo=request.options.get("screen") == "true")
    started = time.monotonic()
    try:
        failed = run(jobs, Slots(request.options), screen, request.options.get("keep_going") == "true")
    except Stopped as signal_number:
        sys.exit(stopped(screen, signal_number.args[0]))
    sys.exit(conclude(screen, request, jobs, failed, time.monotonic() - started))


if __name__ == "__main__":
    tell_refusals("run.py", main)

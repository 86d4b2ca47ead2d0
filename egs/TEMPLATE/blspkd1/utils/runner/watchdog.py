"""A small process that outlives run.py or slurm.py and ends its jobs when that was killed and could not do so."""

import os
import signal
import time
from collections.abc import Callable

from runner.job import signal_group

PATIENCE_SECONDS = 20  # between SIGTERM and SIGKILL


class Watchdog:
    """Knows the jobs' numbers, of process groups or of Slurm, through a pipe; its end means that the runner is gone.

    end_jobs: called in the small process, with the numbers of the jobs that still run.
    """

    def __init__(self, end_jobs: Callable[[set], None]):
        ours, self._pipe = os.pipe()
        self._process = os.fork()
        if self._process == 0:
            try:
                os.close(self._pipe)
                _watch(ours, end_jobs)
            finally:
                os._exit(0)
        os.close(ours)

    def add(self, job: int) -> None:
        os.write(self._pipe, b"+%d\n" % job)

    def remove(self, job: int) -> None:
        os.write(self._pipe, b"-%d\n" % job)

    def close(self) -> None:
        os.close(self._pipe)
        os.waitpid(self._process, 0)


def _watch(pipe: int, end_jobs: Callable[[set], None]) -> None:
    """Body of the watchdog process."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # or a reader of our caller's output would wait for us
        os.dup2(null, descriptor)
    jobs = set()
    with open(pipe, encoding="ascii") as lines:
        for line in lines:
            (jobs.add if line[0] == "+" else jobs.discard)(int(line[1:]))
    end_jobs(jobs)


def end_groups(groups: set) -> None:
    """SIGTERM to these process groups, after a while SIGKILL."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for group in groups:
        signal_group(group, signal.SIGTERM)
    while any(map(_alive, groups)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for group in groups:
        signal_group(group, signal.SIGKILL)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except OSError:
        return False
    return True

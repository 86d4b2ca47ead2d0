"""A small process that outlives run.py and ends its jobs when run.py was killed and could not do so itself."""

import os
import signal
import time

from runner.job import signal_group

PATIENCE_SECONDS = 20  # between SIGTERM and SIGKILL


class Watchdog:
    """Knows the jobs' process groups through a pipe; the end of the pipe means that run.py is gone."""

    def __init__(self):
        ours, self._pipe = os.pipe()
        self._process = os.fork()
        if self._process == 0:
            try:
                os.close(self._pipe)
                _watch(ours)
            finally:
                os._exit(0)
        os.close(ours)

    def add(self, group: int) -> None:
        os.write(self._pipe, b"+%d\n" % group)

    def remove(self, group: int) -> None:
        os.write(self._pipe, b"-%d\n" % group)

    def close(self) -> None:
        os.close(self._pipe)
        os.waitpid(self._process, 0)


def _watch(pipe: int) -> None:
    """Body of the watchdog process."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # or a reader of our caller's output would wait for us
        os.dup2(null, descriptor)
    groups = set()
    with open(pipe, encoding="ascii") as lines:
        for line in lines:
            (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
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

"""What tells run.py and slurm.py to stop: signals, and the end of the recipe that started them."""

import os
import signal
import time

ECHO_SECONDS = 1  # Slurm tells the tasks of a step and its srun, which tells the tasks: that is one signal, not two
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Stopped(Exception):
    """A signal told us to stop; its number is the argument."""


class StopSignals:
    """Collects signals instead of dying of them; those that were ignored stay so."""

    def __init__(self):
        self.received: list = []
        self._last_term = float("-inf")
        for number in STOP_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._receive)
        self._caller = os.getppid()
        # The recipe's script; a login shell may leave us behind.
        self._watched = os.environ.get("BLSPKD_PID") == str(self._caller)

    def look(self) -> bool:
        """Are we to stop?"""
        if self._watched and os.getppid() != self._caller:
            self.received.append(signal.SIGTERM)
        return bool(self.received)

    def _receive(self, number: int, frame: object) -> None:
        if number == signal.SIGTERM:
            echo = time.monotonic() < self._last_term + ECHO_SECONDS
            self._last_term = time.monotonic()
            if echo:
                return
        self.received.append(number)

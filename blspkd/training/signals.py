"""Signals that ask a training to stop, and what its processes make of them. Standard library only."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from blspkd.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # schedulers send these before they kill
Handler = Callable[[int, FrameType | None], None]


@contextmanager
def handled(by: Handler) -> Iterator[None]:
    """In this block, SIGNALS call `by`; it is for the main thread."""
    before = {number: signal.signal(number, by) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_at_once(number: int, frame: FrameType | None) -> None:
    """A handler for when there is nothing to save. Raises Stopped."""
    raise Stopped(f"stopped by {signal.Signals(number).name}")


def outlive() -> None:
    """In a process that loads data: it ends with the training that reads from it, which goes on to the end of a step.

    Schedulers signal every process that they find. SIGTERM of its own parent is another matter: that is the end.
    """
    if not hasattr(signal, "sigwaitinfo"):  # macOS
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_wait, args=(os.getppid(),), daemon=True).start()


def _wait(parent: int) -> None:
    while True:
        came = signal.sigwaitinfo(SIGNALS)
        if came.si_signo == signal.SIGTERM and came.si_pid == parent:
            os._exit(0)

"""Memory that is free, but that the C library keeps: it is given back, so that a server is not larger than its work.

Batches differ in size, and glibc fits the next one's tensors between what is left of the last ones' as well as it can:
without this a server grows by a fifth over some thousand requests, though it holds no more than before.
"""

import time

from blspkd.free_memory import give_back

_MIN_SECONDS = 1.0  # between two times: it takes some milliseconds, and pages that come back do, too


class FreeMemory:
    """Gives it back from time to time."""

    def __init__(self):
        self._given_back = time.monotonic()
        self._is_scattered = False

    def scatter(self) -> None:
        """A batch is done. One request alone leaves nothing that the next one could not take."""
        self._is_scattered = True

    def give_back(self) -> None:
        """Call it when there is nothing else to do."""
        if self._is_scattered and time.monotonic() - self._given_back >= _MIN_SECONDS:
            give_back()
            self._given_back, self._is_scattered = time.monotonic(), False

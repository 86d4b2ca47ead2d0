"""Memory that is free, but that the C library keeps: it is given back, so that a process is not larger than its work.

Batches differ in size, and glibc fits the next one's tensors between what is left of the last ones' as well as it can.
"""

import ctypes
import os
from pathlib import Path

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # None: another C library than glibc
_STATM = Path("/proc/self/statm")
MOST_KEPT = 0.6  # of what is in use


def give_back() -> None:
    """Give back all that is free. It takes some milliseconds, and so do pages that are needed again."""
    if _trim is not None:
        _trim(0)


def resident() -> int:
    """Bytes of memory that this process has, without those of mapped files; 0 where the system does not say."""
    if _trim is None or not _STATM.exists():
        return 0
    _, pages, of_files, *_ = map(int, _STATM.read_text(encoding="ascii").split())
    return (pages - of_files) * os.sysconf("SC_PAGE_SIZE")


class Tidy:
    """Gives back what a program keeps from step to step, where that is more than a share of what it uses.

    What a usual step frees is kept for the next one; a large step leaves more, and in pieces that fit no other.
    """

    def __init__(self, most_kept: float = MOST_KEPT):
        self.most_kept, self.in_use = most_kept, 0

    def after_step(self) -> None:
        if resident() > (1 + self.most_kept) * self.in_use:
            give_back()
            self.in_use = resident()

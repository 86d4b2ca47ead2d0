"""Memory that jobs use, in MiB."""

import os
import sys
from pathlib import Path

try:
    import psutil
except ImportError:  # a python3 that is not the recipe's: memory is not measured, all else works
    psutil = None


def usage_mib(usage) -> int:
    """Largest resident size among a process that has ended and its children (`getrusage`)."""
    return round(usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))


def tree_mib() -> int:
    """Memory now in use by everything below this process: private pages added up, shared ones counted once."""
    private, shared = 0, 0
    for process in psutil.Process().children(recursive=True) if psutil else ():
        try:
            info = process.memory_info()
        except psutil.Error:  # it has ended
            continue
        private += info.rss - getattr(info, "shared", 0)
        shared = max(shared, getattr(info, "shared", 0))
    return round((private + shared) / 2**20)


def note_alive() -> None:
    """Tell the recipe that this step is still at work: if it is killed, the time until now counts."""
    if os.environ.get("BLSPKD_PEAK_FILE"):
        Path(os.environ["BLSPKD_PEAK_FILE"]).touch()


def record_peak(mib: int) -> None:
    """Tell the stage that we work for how much memory its jobs took."""
    if os.environ.get("BLSPKD_PEAK_FILE"):
        with open(os.environ["BLSPKD_PEAK_FILE"], "a") as file:
            file.write(f"{mib}\n")

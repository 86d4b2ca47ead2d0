"""Memory that jobs use, in MiB."""

import os
import sys
from pathlib import Path

PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


def usage_mib(usage) -> int:
    """Largest resident size among a process that has ended and its children (`getrusage`)."""
    return round(usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))


def tree_mib() -> int:
    """Memory now in use by everything below this process: private pages added up, shared ones counted once.

    0 where there is no /proc.
    """
    children: dict = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        children.setdefault(parent, []).append(entry)
    private, shared = 0, 0
    below = list(children.get(os.getpid(), []))
    while below:
        entry = below.pop()
        below.extend(children.get(int(entry.name), []))
        try:
            resident_pages, shared_pages = map(int, (entry / "statm").read_text().split()[1:3])
        except (OSError, ValueError):
            continue
        private += resident_pages - shared_pages
        shared = max(shared, shared_pages)
    return round((private + shared) * PAGE_MIB)


def note_alive() -> None:
    """Tell the recipe that this step is still at work: if it is killed, the time until now counts."""
    if os.environ.get("BLSPKD_PEAK_FILE"):
        Path(os.environ["BLSPKD_PEAK_FILE"]).touch()


def record_peak(mib: int) -> None:
    """Tell the stage that we work for how much memory its jobs took."""
    if os.environ.get("BLSPKD_PEAK_FILE"):
        with open(os.environ["BLSPKD_PEAK_FILE"], "a") as file:
            file.write(f"{mib}\n")

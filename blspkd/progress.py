"""The one progress bar: same look everywhere, with an ETA, readable through the job runner's log."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Iterable[Item], what: str, total: int | None = None, unit: str = "it") -> Iterator[Item]:
    """Iterate over `items` behind a bar that says `what`, how many of `total`, and the time left."""
    return iter(progress_bar(what, total=total, unit=unit, items=items))


def progress_bar(what: str, total: int | None, unit: str = "it", items: Iterable | None = None) -> tqdm:
    """A bar to update by hand: `bar.update(n)`, `bar.close()`. On a log or pipe it redraws every 2 s at most."""
    interactive = sys.stderr.isatty()
    return tqdm(items, desc=what, total=total, unit=unit, ascii=True, mininterval=0.2 if interactive else 2.0,
                ncols=None if interactive else 90, dynamic_ncols=interactive)

"""Times and memory, side by side: what every benchmark here is made of.

Machines are shared and noisy, so the contestants of a case take turns within one run, and what counts is the median of
the ratios of each turn. Memory is that of torch's allocators: extra peak above what was there before the call.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.append(str(Path(__file__).resolve().parents[2]))  # blspkd, also where it is not installed

MIB = 1 << 20
most_turns: int | None = None  # a limit for all turns, for impatient runs
Contestant = Callable[[], object]  # does the job once, forward and backward, and leaves nothing behind


@dataclass
class Row:
    """One comparison of ours with one peer, as it stands in the JSON file."""

    part: str  # cif, kd, plora, batching, encoder or step
    case: str
    peer: str
    ours_s: float | None = None  # seconds, medians
    peer_s: float | None = None
    speedup: float | None = None  # median over the turns of peer / ours
    ours_peak_mib: float | None = None
    peer_peak_mib: float | None = None
    max_abs_diff: float | None = None  # largest difference between the two results, on the same inputs
    spread: list[float] | None = None  # lower and upper quartile of the turns' ratios
    floor: float | None = None  # ours / the least time that memory or arithmetic allows, measured in the same run
    note: str = ""
    wrong: bool = False  # ours is not what an exact peer gives; the note says by how much


@dataclass
class Turns:
    """Seconds of every turn of every contestant."""

    seconds: dict[Hashable, list[float]]

    def median(self, name: Hashable) -> float:
        return statistics.median(self.seconds[name])

    def ratios(self, name: Hashable, ours: Hashable = "ours") -> list[float]:
        """name / ours, turn by turn."""
        return [theirs / own for theirs, own in zip(self.seconds[name], self.seconds[ours], strict=True)]


def take_turns(contestants: dict[Hashable, Contestant], device: str, turns: int = 9,
               min_seconds: float = 0.02) -> Turns:
    """Run every contestant `turns` times, in rotation, each time long enough to be measured."""
    loops = {}
    for name, run in contestants.items():
        run()  # warm up
        once = _seconds(run, 1, device)
        loops[name] = max(1, round(min_seconds / max(once, 1e-7)))
    seconds: dict[Hashable, list[float]] = {name: [] for name in contestants}
    for _ in range(min(turns, most_turns or turns)):
        for name, run in contestants.items():
            seconds[name].append(_seconds(run, loops[name], device))
    return Turns(seconds)


def _seconds(run: Contestant, loops: int, device: str) -> float:
    synchronise(device)
    start = time.perf_counter()
    for _ in range(loops):
        run()
    synchronise(device)
    return (time.perf_counter() - start) / loops


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def extra_peak_mib(run: Contestant, device: str) -> float:
    """Highest amount of tensor memory during the call, above that before it, in MiB."""
    run()  # warm up: workspaces that stay
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    with _quiet_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    events = [(event.start_ns(), event.nbytes()) for event in recorded.profiler.kineto_results.events()
              if event.name() == "[memory]"]
    level = highest = 0
    for _, change in sorted(events, key=lambda event: event[0]):
        level += change
        highest = max(highest, level)
    return highest / MIB


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """The profiler's own lines stay off the screen; Python's errors come later, when this has ended."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Run torch on so many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def row(part: str, case: str, peer: str, turns: Turns, peaks: dict[Hashable, float], max_abs_diff: float | None, *,
        floor: float | None = None, note: str = "", ours: Hashable = "ours", key: Hashable | None = None) -> Row:
    """The row of `peer` against "ours" out of what was measured for both, under these names or `key` and `ours`."""
    key = peer if key is None else key
    ratios = turns.ratios(key, ours)
    low, _, high = statistics.quantiles(ratios, n=4)
    return Row(part, case, peer, turns.median(ours), turns.median(key), statistics.median(ratios), peaks.get(ours),
               peaks.get(key), max_abs_diff, [low, high], floor, note)


def judged(found: Row, difference: float, tolerance: float) -> Row:
    """`found`, called wrong where ours differs from an exact peer by more than rounding could explain."""
    if difference <= tolerance:
        return found
    warning = f"WRONG: ours differs by {difference:.1e}, where rounding explains {tolerance:.0e} at most"
    return replace(found, wrong=True, note=f"{warning}; {found.note}" if found.note else warning)

"""CIF: ours against four other ways to compute it, forward and backward, float32.

The floor is the time in which a plain copy moves 3 * B * T * C * 4 bytes: the frames read twice, their gradient written
once. Large tensors come fresh from the operating system each time, and on a CPU touching their pages costs more than
all arithmetic; the note says how much of the floor that alone is. With huge pages (`core.py --huge_pages`, or
THP_MEM_ALLOC_ENABLE=1 for any torch program) it nearly vanishes.
"""

import statistics
from collections.abc import Iterator
from functools import partial

import peers
import torch
from measure import MIB, Row, extra_peak_mib, judged, row, take_turns, threads
from torch import Tensor

from blspkd.models.cif import fire

PART = "cif"
SHAPES = [(8, 500, 512), (16, 1500, 1280), (4, 3000, 1280)]
FRAMES_PER_TOKEN = (12, 25)
COPIED = 128 * MIB  # bytes of the copy that measures bandwidth, larger than caches
TOLERANCE = 1e-3  # of tokens, means of normal numbers, against the plain way: sums of thousands of weights in float32
SLOW_TURNS = 3  # of the loop over frames


def ours(frames: Tensor, alpha: Tensor, n_tokens: Tensor) -> Tensor:
    return fire(frames, alpha, n_tokens).tokens


def job(function: peers.Cif, frames: Tensor, alpha: Tensor, n_tokens: Tensor, slope: Tensor) -> None:
    torch.autograd.grad(function(frames, alpha, n_tokens), (frames, alpha), slope)


def contestants() -> tuple[dict[str, peers.Cif], list[str]]:
    """Functions by name, and what is not installed."""
    found, missing = {"ours": ours, "plain": peers.dense_cif, "funasr-cif_v1": peers.prefix_sum_cif}, []
    try:
        found["torch-cif"] = peers.torch_cif()
    except ImportError:
        missing.append("torch-cif")
    return {**found, "authors-loop": peers.frame_loop_cif}, missing


def run(device: str, quick: bool = False) -> list[Row]:
    """Rows of part "cif"."""
    functions, missing = contestants()
    rows = [Row(PART, "", name, note="not installed") for name in missing]
    for number in (torch.get_num_threads(),) if device == "cuda" else (1,) if quick else (1, 2):
        with threads(number):
            for shape in [(2, 60, 16)] if quick else SHAPES:
                for ratio in FRAMES_PER_TOKEN:
                    rows += compare(shape, ratio, number, device, functions)
    return rows


def compare(shape: tuple[int, int, int], ratio: int, number: int, device: str, functions: dict[str, peers.Cif]
            ) -> Iterator[Row]:
    batch, length, width = shape
    torch.manual_seed(0)
    frames = torch.randn(shape, device=device, requires_grad=True)
    alpha = torch.rand(batch, length, device=device, requires_grad=True)
    n_tokens = torch.full((batch,), length // ratio)
    slope = torch.randn(batch, length // ratio, width, device=device)
    on_device = n_tokens.to(device)
    jobs = {name: partial(job, function, frames, alpha, n_tokens if name == "ours" else on_device, slope)
            for name, function in functions.items()}
    rivals = [name for name in jobs if name != "ours"]
    found = {}
    with torch.no_grad():
        tokens = ours(frames, alpha, n_tokens)
        for name in rivals:
            theirs = functions[name](frames, alpha, on_device)
            lost = (theirs == 0).all(2)  # only the prefix sums lose tokens
            found[name] = float((tokens - theirs)[~lost].abs().max()), int(lost.sum())

    peaks = {name: extra_peak_mib(run_job, device) for name, run_job in jobs.items()}
    size = 4 * batch * length * width
    source = torch.zeros(COPIED // 4, device=device)
    target = torch.empty_like(source)
    fast = take_turns({name: run_job for name, run_job in jobs.items() if name != "authors-loop"}
                      | {"copy": partial(target.copy_, source), "fresh pages":
                         lambda: torch.empty(size // 4, device=device).fill_(0)}, device)
    slow = take_turns({name: jobs[name] for name in ("ours", "authors-loop")}, device, turns=SLOW_TURNS)
    floors = 3 * size / (2 * COPIED)  # of the time of the copy, which reads and writes
    times_floor, pages = (1 / floors / statistics.median(fast.ratios("copy", name)) for name in ("ours", "fresh pages"))
    case = f"{batch}x{length}x{width} T/{ratio} "
    case += device if device == "cuda" else f"{number} thread{'s' * (number > 1)}"
    for name in rivals:
        difference, lost = found[name]
        note = f"new pages alone {pages:.1f}x floor, "
        note += f"ours takes {peaks['ours'] * MIB / size:.2f}x the frames"
        if name == "torch-cif":
            note += "; it scales to n + 1e-4 by design"
        if lost:
            note += f"; loses {lost} of {batch} last tokens, the rest compared"
        found_row = row(PART, case, name, slow if name == "authors-loop" else fast, peaks, difference,
                        floor=times_floor, note=note)
        yield judged(found_row, difference, TOLERANCE) if name == "plain" else found_row

"""KD loss: ours against the plain formula and liger-kernel's chunked loss; forward KL, temperature 2, float32.

Value and gradient of the student's hidden states; the output head is frozen. "half": half of the positions of the same
sequence are selected. Ours gets these alone; the peers compute all logits and leave out what is not selected. The floor
is the time of the three matrix products (two logits, one gradient) that no implementation can do without.
"""

from collections.abc import Callable, Iterator
from functools import partial

import peers
import torch
from measure import Row, extra_peak_mib, judged, row, take_turns, threads
from torch import Tensor

from blspkd.losses.distillation import Divergence, distillation_loss

PART, TEMPERATURE = "kd", 2.0
SIZES = [(1024, 512, 32_000), (512, 896, 152_000)]  # positions, width, vocabulary
LIGER_CHUNKS = (1024, 256)  # its default, and a smaller one
GEMM_ROWS = 128
TOLERANCE = 1e-3  # of value and slope against the plain formula's, as shares of their largest entries
TURNS = 5
Loss = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]  # student, teacher, head, selected, temperature


def ours(student: Tensor, teacher: Tensor, head: Tensor, selected: Tensor, temperature: float) -> Tensor:
    if not selected.all():
        student, teacher = student[selected], teacher[selected]
    weights = torch.full((len(student),), 1 / len(student), device=student.device)
    return distillation_loss(student, teacher, head, weights, Divergence(temperature=temperature)).loss


def job(loss: Loss, student: Tensor, teacher: Tensor, head: Tensor, selected: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(student, teacher, head, selected, TEMPERATURE)
    return value.detach(), torch.autograd.grad(value, student)[0]


def products(student: Tensor, teacher: Tensor, head: Tensor) -> None:
    for start in range(0, len(student), GEMM_ROWS):
        chunk = slice(start, start + GEMM_ROWS)
        logits = student.detach()[chunk] @ head.T
        torch.mm(teacher[chunk], head.T, out=logits)
        logits @ head


def run(device: str, quick: bool = False) -> list[Row]:
    """Rows of part "kd"; one thread on a CPU."""
    losses: dict[str, Loss] = {"ours": ours, "plain": peers.plain_kl}
    rows = []
    try:
        losses |= {"liger" if chunk == LIGER_CHUNKS[0] else f"liger, chunk {chunk}": peers.liger_kl(chunk)
                   for chunk in LIGER_CHUNKS}
    except ImportError:
        rows.append(Row(PART, "", "liger", note="not installed"))
    with threads(1 if device == "cpu" else torch.get_num_threads()):
        for size in [(64, 16, 500)] if quick else SIZES:
            rows += compare(*size, device, losses)
    return rows


def compare(n: int, width: int, vocabulary: int, device: str, losses: dict[str, Loss]) -> Iterator[Row]:
    torch.manual_seed(0)
    head = torch.randn(vocabulary, width, device=device) / width**0.5
    student = torch.randn(n, width, device=device, requires_grad=True)
    teacher = torch.randn(n, width, device=device)
    masks = {"all": torch.ones(n, dtype=torch.bool, device=device), "half": torch.arange(n, device=device) % 2 == 0}
    jobs = {(name, which): partial(job, loss, student, teacher, head, mask)
            for which, mask in masks.items() for name, loss in losses.items()}
    differences, shares = {}, {}
    for (name, which), run_job in jobs.items():
        value, slope = run_job()
        if name == "ours":
            expected, expected_slope = value, slope
        apart = [(theirs - own).abs().max() for theirs, own in ((value, expected), (slope, expected_slope))]
        differences[name, which] = float(max(apart))
        shares[name, which] = float(max(apart[0] / value.abs(), apart[1] / slope.abs().max()))
    peaks = {key: extra_peak_mib(run_job, device) for key, run_job in jobs.items()}
    products_job = {("products", "all"): partial(products, student, teacher, head)}
    turns = take_turns(jobs | products_job, device, turns=TURNS)
    case = f"n={n} H={width} V={vocabulary}"
    all_of_ours = ("ours", "all")
    floor = turns.median(all_of_ours) / turns.median(("products", "all"))
    share = turns.median(("products", "all")) / turns.median(("plain", "all"))
    for which in masks:
        for name in [name for name in losses if name != "ours"]:
            found = row(PART, f"{case} {which}", name, turns, peaks, differences[name, which], floor=floor,
                        ours=("ours", which), key=(name, which),
                        note=f"floor: three matrix products of all positions, {share:.2f} of plain's time for them")
            yield judged(found, shares[name, which], TOLERANCE) if name == "plain" else found
    yield row(PART, f"{case} half", "ours, all positions", turns, peaks, None, ours=("ours", "half"), key=all_of_ours,
              note="half of the positions against all")
    twice = partial(job, ours, student.detach().repeat(2, 1).requires_grad_(), teacher.repeat(2, 1), head,
                    masks["all"].repeat(2))
    yield Row(PART, f"{case} all, peak", "ours, 2n positions", ours_peak_mib=peaks[all_of_ours],
              peer_peak_mib=extra_peak_mib(twice, device), note="the peak depends on the chunk, not on n")

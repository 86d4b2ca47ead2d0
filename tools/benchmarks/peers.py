"""What ours is compared with: public packages, called as they are, and plain ways to write the same thing.

A peer that is not installed raises ImportError when it is built. `pip install torch-cif==0.2.0` and
`pip install --no-deps liger-kernel==0.8.5` give the two packages (the extra `[bench]` of setup.py).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Cif = Callable[[Tensor, Tensor, Tensor], Tensor]  # frames [B, T, C], unscaled alpha [B, T], n [B] -> tokens [B, N, C]


def scaled(alpha: Tensor, n_tokens: Tensor) -> Tensor:
    return alpha * (n_tokens / alpha.sum(1))[:, None]


def dense_cif(frames: Tensor, alpha: Tensor, n_tokens: Tensor) -> Tensor:
    """All overlaps [B, N, T], then one product with the frames."""
    ends = scaled(alpha, n_tokens).cumsum(1)[:, None]
    starts = F.pad(ends[..., :-1], (1, 0))
    token = torch.arange(int(n_tokens.max()), device=alpha.device)[:, None]
    weights = (torch.minimum(ends, token + 1) - torch.maximum(starts, token)).clamp(min=0)
    return weights @ frames


def frame_loop_cif(frames: Tensor, alpha: Tensor, n_tokens: Tensor) -> Tensor:
    """Frame by frame, as in the code that came with the method: weights into a dense matrix, then one product.

    Each frame fills the current token up to 1 and passes the rest on; whether there is a rest is asked of the device.
    """
    amounts = scaled(alpha, n_tokens)
    batch, longest = len(alpha), int(n_tokens.max())
    token = torch.zeros(batch, 1, dtype=torch.long, device=alpha.device)
    filled = alpha.new_zeros(batch, 1)
    columns = []
    for amount in amounts.split(1, dim=1):
        column = alpha.new_zeros(batch, longest + 1)
        fires = filled + amount >= 1
        while fires.any():
            used = torch.where(fires, 1 - filled, 0)
            column = column.scatter_add(1, token, used)
            amount, filled = amount - used, torch.where(fires, 0, filled)
            token = (token + fires).clamp(max=longest)
            fires = amount >= 1
        column = column.scatter_add(1, token, amount)
        filled = filled + amount
        columns.append(column)
    return torch.stack(columns, dim=2)[:, :-1] @ frames


def prefix_sum_cif(frames: Tensor, alpha: Tensor, n_tokens: Tensor) -> Tensor:
    """The semantics of FunASR's `cif_v1`: differences of the frames' weighted running sum, taken where a token fires.

    A frame fires at most once, and a last token that rounding leaves just short of 1 is lost: its row is zero.
    """
    amounts = scaled(alpha, n_tokens)
    filled = amounts.double().cumsum(1).float()
    whole = filled.floor()
    fires = whole > F.pad(whole[:, :-1], (1, 0))
    running = (amounts[..., None] * frames).cumsum(1)
    row, frame = fires.nonzero(as_tuple=True)
    closed = running[row, frame] - (filled - whole)[row, frame, None] * frames[row, frame]  # without the next token's
    first = F.pad(row[1:] != row[:-1], (1, 0), value=True)
    tokens = closed - torch.where(first[:, None], 0, closed.roll(1, dims=0))
    place = fires.cumsum(1)[row, frame] - 1
    return frames.new_zeros(len(frames), int(n_tokens.max()), frames.shape[2]).index_put((row, place), tokens)


def torch_cif() -> Cif:
    """The package `torch-cif` with its defaults."""
    from torch_cif import cif_function

    def run(frames: Tensor, alpha: Tensor, n_tokens: Tensor) -> Tensor:
        return cif_function(frames, alpha, target_lengths=n_tokens)["cif_out"][0]

    return run


def plain_kl(student: Tensor, teacher: Tensor, head: Tensor, selected: Tensor, temperature: float) -> Tensor:
    """Forward KL, the mean over the selected positions [n] bool, with all logits in memory. The head is frozen."""
    with torch.no_grad():
        teacher_logits = teacher @ head.T
    student_logits = student @ head.T
    p = F.softmax(teacher_logits[selected] / temperature, dim=1)
    log_q = F.log_softmax(student_logits[selected] / temperature, dim=1)
    return F.kl_div(log_q, p, reduction="none").sum(1).mean()


def liger_kl(chunk: int) -> Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]:
    """`liger-kernel`'s chunked JSD, which is forward KL at beta 0; it runs uncompiled and without triton."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    def run(student: Tensor, teacher: Tensor, head: Tensor, selected: Tensor, temperature: float) -> Tensor:
        loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, temperature=temperature,
                                       compiled=False, chunk_size=chunk)
        return loss(student, head, teacher, head, torch.where(selected, 0, -100))

    return run

"""Large batches through the LLM some rows at a time, so that no batch needs more memory than a usual one.

What a backward pass needs of the LLM grows with the positions of a batch, and a few batches of a run are several times
as large as most. Their rows are run in pieces, and all pieces but the last a second time in the backward pass, one
after the other (gradient checkpointing). Only these few batches take longer; a row's result does not depend on which
rows it is run with, but for rounding.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def is_large(positions: int, most: int) -> bool:
    """Whether a batch of so many positions is run in pieces."""
    return 0 < most < positions


def in_pieces(run: Callable[[slice], Tensor], rows: int, length: int, most: int) -> Tensor:
    """run(slice(0, rows)): [rows, ...], at once up to `most` positions (0: always), else in pieces of half as many.

    Half, for a large batch needs more memory elsewhere, too, and smaller pieces cost hardly more.

    run: computes the rows of a slice; it has to compute the same when it is called again. length: positions of a row.
    """
    if not is_large(rows * length, most) or not torch.is_grad_enabled():
        return run(slice(0, rows))
    number = min(rows, math.ceil(2 * rows * length / most))
    edges = [rows * i // number for i in range(number + 1)]
    *first, last = (slice(start, stop) for start, stop in zip(edges, edges[1:], strict=False))
    return torch.cat([checkpoint(run, piece, use_reentrant=False) for piece in first] + [run(last)])

"""Spearman's rank correlation: does one measurement put systems in the order of another?"""

from collections.abc import Sequence

import numpy as np

Pairs = list[tuple[float, float]]
FEW = 10  # with fewer points a correlation is hardly evidence: at n = 9, |rho| < 0.68 is within chance (two-sided, 5%)


def ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 1, ties share their mean rank: [3, 1, 3] -> [2.5, 1, 2.5]."""
    values = np.asarray(values, dtype=np.float64)
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return ((last - counts + 1 + last) / 2)[place]


def spearman(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Pearson's correlation of the ranks, -1 to 1; None for fewer than three points or values that are all the same."""
    if len(left) != len(right):
        raise ValueError(f"{len(left)} and {len(right)} values")
    if len(left) < 3:
        return None
    x, y = (ranks(values) - (len(left) + 1) / 2 for values in (left, right))
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else None


def rho_text(finished: Pairs, snapshots: Pairs = ()) -> str:
    """Over finished models, and where there are snapshots of trainings, over all: -0.93 (n=27); -0.95 (n=36).

    "-" where there is no correlation.
    """
    def text(pairs: Pairs) -> str:
        rho = spearman(*zip(*pairs, strict=True)) if pairs else None
        return "-" if rho is None else f"{rho:+.2f} (n={len(pairs)})"

    return "; ".join([text(finished), text([*finished, *snapshots])] if snapshots else [text(finished)])

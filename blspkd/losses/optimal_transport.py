"""Optimal transport between two sequences of vectors, masked and batched.

Row i of utterance b holds the mass 1/n_b, column j the mass 1/m_b; padding holds none. A plan T says how much of row i
goes to column j, and costs <T, C>:

- `ipot`: the plan by the proximal point method (Xie et al., arXiv 1802.04307; UNITER, arXiv 1909.11740, section 3.2);
- `sinkhorn`: the cost with an entropy penalty, min_T <T, C> + epsilon KL(T | a b), in the log domain;
- `divergence`: S(x, y) - S(x, x) / 2 - S(y, y) / 2 of it, which is 0 for equal sequences (Feydy et al., arXiv
  1810.08278), as in "CTC meets optimal transport" (arXiv 2301.11716).

All is computed in float64: the values do not depend on the precision of the vectors' type, only on the vectors.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

COOLING = 0.5  # of epsilon, from one of the first iterations to the next: starting with the last one converges slowly


@dataclass
class Points:
    """A sequence of vectors for every utterance."""

    vectors: Tensor  # [B, N, D]; what stands on padding does not matter
    lengths: Tensor  # [B], at least 1, on the CPU or where the vectors are

    def is_real(self) -> Tensor:
        """[B, N] bool."""
        lengths = self.lengths.to(self.vectors.device, non_blocking=True)
        return torch.arange(self.vectors.shape[1], device=lengths.device) < lengths[:, None]

    def places(self) -> Tensor:
        """[B, N] float64: 0 for the first vector of an utterance, 1 for its last."""
        last = self.lengths.to(self.vectors.device, non_blocking=True)[:, None] - 1
        return torch.arange(self.vectors.shape[1], device=last.device) / last.clamp(min=1).double()


@dataclass(frozen=True)
class Ground:
    """What it costs to move a unit of mass from one vector to another."""

    kind: Literal["cosine", "euclidean"] = "cosine"  # 1 - cos(x, y), or |x - y|^2 / 2
    mean_square: float = 1.0  # euclidean: of the norms, by which squared distances are divided
    positions: float = 0.0  # weight of (i / (n - 1) - j / (m - 1))^2 / 2, added: a further channel of the vectors

    def cost(self, x: Points, y: Points) -> Tensor:
        """C [B, N, M] float64, 0 on padding: halves of squared distances, of unit vectors or of those given."""
        padding = ~(x.is_real()[:, :, None] & y.is_real()[:, None])
        a, b = (points.vectors.double().masked_fill(~points.is_real()[..., None], 0) for points in (x, y))
        if self.kind == "cosine":
            cost = 1 - normalize(a, dim=-1) @ normalize(b, dim=-1).mT
        else:
            squares = a.square().sum(-1)[:, :, None] + b.square().sum(-1)[:, None]
            cost = (squares / 2 - a @ b.mT) / self.mean_square
        if self.positions:
            cost = cost + self.positions * (x.places()[:, :, None] - y.places()[:, None]).square() / 2
        return cost.masked_fill(padding, 0)


@torch.no_grad()
def ipot(cost: Tensor, n: Tensor, m: Tensor, beta: float = 0.5, iterations: int = 50) -> Tensor:
    """The transport plan [B, N, M] for costs [B, N, M] of n and m real rows and columns [B], without gradient.

    T is multiplied by exp(-C / beta) and brought back to its sums, `iterations` times; the columns' are exact.
    Padding has exactly no mass.
    """
    a, b = _masses(cost, 1, n), _masses(cost, 2, m)  # [B, N, 1], [B, 1, M]
    density, g = torch.zeros_like(cost), torch.zeros_like(b)  # log of T / (a b): finite on padding too
    for _ in range(iterations):
        density = density - cost / beta
        f = _softmin(density + g, b, 1.0, 2)
        g = _softmin(density + f, a, 1.0, 1)
        density = density + f + g
    return a * b * density.exp()


def transport_cost(plan: Tensor, cost: Tensor) -> Tensor:
    """<T, C> [B] of plan and cost [B, N, M]."""
    return (plan * cost).sum((1, 2))


def sinkhorn(cost: Tensor, n: Tensor, m: Tensor, epsilon: float, iterations: int = 50) -> Tensor:
    """S = min_T <T, C> + epsilon KL(T | a b) [B] for costs [B, N, M] of n and m real rows and columns [B].

    By its dual, <a, f> + <b, g> with f_i = -epsilon log sum_j b_j exp((g_j - C_ij) / epsilon) and g likewise. Both are
    updated at once and averaged with what they were, from an epsilon as large as the costs down to the given one. Of
    the last update alone the gradient is taken: with respect to C it is the plan itself, whose columns are exact.
    """
    a, b = _masses(cost, 1, n), _masses(cost, 2, m)  # [B, N, 1], [B, 1, M]
    with torch.no_grad():
        warm = cost.abs().amax((1, 2), keepdim=True)  # [B, 1, 1]: nothing depends on batch mates
        f, g = torch.zeros_like(a), torch.zeros_like(b)
        for iteration in range(iterations):
            now = (warm * COOLING**iteration).clamp(min=epsilon)
            next_f, next_g = _softmin(g - cost, b, now, 2), _softmin(f - cost, a, now, 1)
            f, g = ((f + next_f) / 2, (g + next_g) / 2) if iteration else (next_f, next_g)
        f = _softmin(g - cost, b, epsilon, 2)
    g = _softmin(f - cost, a, epsilon, 1)
    return (a * f).sum((1, 2)) + (b * g).sum((1, 2))


def divergence(x: Points, y: Points, ground: Ground, epsilon: float, iterations: int = 50) -> Tensor:
    """S(x, y) - S(x, x) / 2 - S(y, y) / 2 [B]: at least 0, and exactly 0 where x is y."""
    between, of_x, of_y = (sinkhorn(ground.cost(p, q), p.lengths, q.lengths, epsilon, iterations)
                           for p, q in ((x, y), (x, x), (y, y)))
    return between - of_x / 2 - of_y / 2


def _softmin(reduced: Tensor, masses: Tensor, epsilon: Tensor | float, dim: int) -> Tensor:
    """-epsilon log sum_k mass_k exp(reduced_k / epsilon) along `dim`; padding has the log mass -inf."""
    return -epsilon * (masses.log() + reduced / epsilon).logsumexp(dim, keepdim=True)


def _masses(cost: Tensor, dim: int, lengths: Tensor) -> Tensor:
    """Equal shares of the real rows [B, N, 1] or columns [B, 1, M], which sum to 1; 0 on padding. float64."""
    lengths = lengths.to(cost.device, non_blocking=True)[:, None]
    shares = (torch.arange(cost.shape[dim], device=cost.device) < lengths) / lengths.double()
    return shares.unsqueeze(3 - dim)

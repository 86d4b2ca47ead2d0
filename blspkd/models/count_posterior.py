"""How probable every number of tokens is: P(n | x), summed over all CTC paths that say n labels.

The likeliest path has one number; others together may make another one likelier. The sum is an exact recursion over
frames (CTC's forward pass, Graves et al. 2006, with a number of labels in the place of their sequence). a_t(n, k) is
the probability of all paths of t frames that say n labels and end in symbol k (0: blank), and p_t CTC's distribution:

    a_t(n, 0) = p_t(0) * sum_j a_{t-1}(n, j)
    a_t(n, k) = p_t(k) * (a_{t-1}(n, k) + sum_{j != k} a_{t-1}(n - 1, j))       P(n | x) = sum_k a_T(n, k)

The sum over all n is 1, and numbers above the one that a pass stops at change nothing below it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from blspkd.models.token_counter import BLANK, count_labels

AHEAD = 4  # numbers beyond the likeliest path's that a pass starts with


@torch.no_grad()
def log_count_posterior(logits: Tensor, frame_lengths: Tensor, highest: int) -> Tensor:
    """log P(n | x) for n = 0 ... highest: logits [B, T, K + 1] and lengths [B] -> [B, highest + 1], float64.

    Each a(n, .) is kept as a vector that sums to 1 and the logarithm of its sum, so that nothing underflows, and no
    frame needs an exponential or a logarithm of every class.
    """
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    probabilities = logits.to(wide).softmax(-1)  # [B, T, K + 1]
    batch, num_frames, symbols = logits.shape
    last = frame_lengths.to(logits.device)[:, None] - 1  # [B, 1]
    state = probabilities.new_zeros(batch, highest + 1, symbols)
    state[:, 0, BLANK] = 1  # before the first frame
    scale = probabilities.new_full((batch, highest + 1), -torch.inf)  # log of the sums
    scale[:, 0] = 0
    found = scale
    for frame in range(num_frames):
        below_scale = F.pad(scale[:, :-1], (1, 0), value=-torch.inf)
        reference = torch.maximum(scale, below_scale)
        reference = torch.where(reference.isinf(), 0, reference)
        stay, step = (scale - reference).exp()[..., None], (below_scale - reference).exp()[..., None]  # [B, N + 1, 1]
        others = _sums_of_others(state)
        moved = stay * state
        moved[:, 1:].addcmul_(step[:, 1:], others[:, :-1])
        moved[..., BLANK] = stay[..., 0]  # all that says n labels so far
        moved *= probabilities[:, frame, None]
        total = moved.sum(-1)  # [B, N + 1]
        state = moved.div_(torch.where(total > 0, total, 1)[..., None])
        scale = reference + total.log()
        found = torch.where(last == frame, scale, found)
    return found


def _sums_of_others(state: Tensor) -> Tensor:
    """Rows [..., K] that sum to 1, or are 0 -> for every k the sum over all j != k.

    1 minus an element, but for the largest: there most digits might cancel.
    """
    largest, place = state.max(-1, keepdim=True)
    rest = state.scatter_(-1, place, 0).sum(-1, keepdim=True)
    state.scatter_(-1, place, largest)
    return (rest + largest - state).scatter_(-1, place, rest)


def likeliest_count(logits: Tensor, frame_lengths: Tensor, expected: Tensor | None = None, spread: float = 1.0
                    ) -> Tensor:
    """argmax over n >= 1 of P(n | x), times exp(-|n - expected| / spread) where another opinion is given: [B], int64.

    logits: [B, T, K + 1]; expected: [B], e.g. the sums of alpha; spread: in tokens. A pass that leaves so much
    probability to higher numbers that one of them might win is followed by one that goes further.
    """
    highest = int(count_labels(logits, frame_lengths).max()) + AHEAD
    if expected is not None:
        highest = max(highest, int(expected.max()) + AHEAD)
    limit = max(1, int(frame_lengths.max()))
    while True:
        highest = min(highest, limit)
        log_p = log_count_posterior(logits, frame_lengths, highest)
        left = torch.log1p(-log_p.exp().sum(1).clamp(max=1))  # [B] of all higher numbers together
        score = log_p
        if expected is not None:
            numbers = torch.arange(highest + 1, device=log_p.device)
            score = log_p - (numbers - expected[:, None].to(log_p)).abs() / spread
            left = left - (highest + 1 - expected.to(log_p)).clamp(min=0) / spread
        best, index = score[:, 1:].max(1)
        if highest == limit or bool((left <= best).all()):
            return index + 1
        highest *= 2

"""Continuous integrate-and-fire (CIF, arXiv 1905.11235; as used by BLSP-KD, arXiv 2405.19041, section 3.2).

Every frame t carries an amount alpha_t. The amounts are scaled to sum to n and laid end to end on a line: frame t
covers [A_{t-1}, A_t] of it, and token u is the stretch [u-1, u] between two fires (threshold 1). A token is the sum of
the frames that it overlaps, each weighted by the length of the overlap. So the weights of a token sum to 1 and those of
a frame to its scaled alpha, whatever the number of fires inside one frame, and nothing is lost at the end.

How it is computed: the fire points 1..n and the frame ends A_1..A_T, merged in order, cut the line into at most T + N
pieces, each inside one frame and one token. The pieces of a token are consecutive, which makes the sum over them a
weighted segment sum (`torch.nn.functional.embedding_bag`): one read of the frames, no [B, N, T] matrix, no loop. The
pieces of a frame are consecutive too, so that its gradient is the same sum with frames and tokens exchanged.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Fired:
    """Tokens cut out of frames."""

    tokens: Tensor  # [B, N, C], rows past n_tokens[b] are zero
    mask: Tensor  # [B, N] bool, True for the n_tokens[b] tokens of utterance b
    times: Tensor  # [B, N] where each token closes, in frames (2.5: in the middle of the third); 0 past n_tokens[b]


def total(alpha: Tensor) -> Tensor:
    """The sum of alpha [B, T], zero on padding, whatever the padding's length: [B]."""
    return _running_sum(F.pad(alpha, (1, 0)))[:, -1]


def count(alpha: Tensor) -> Tensor:
    """The number of tokens at inference: max(1, round(sum of alpha)); halves go to the even number.

    alpha: [B, T], zero on padding; without any frame (T = 0) the sum is 0. Returns [B], int64.
    """
    return total(alpha).round().clamp(min=1).long()


def fire(frames: Tensor, alpha: Tensor, n_tokens: Tensor, max_tokens: int | None = None) -> Fired:
    """Integrate frames into exactly n_tokens[b] tokens per utterance.

    frames:     [B, T, C]
    alpha:      [B, T], non-negative, zero on padding, not scaled: gradients are with respect to it
    n_tokens:   [B], int64, at least 1; when it is a CPU tensor nothing waits for the GPU
    max_tokens: N, when the caller knows max(n_tokens)

    The result of an utterance does not depend on its padding or its batch mates. An utterance whose alpha is all zero,
    or that has no frame, has nothing to integrate: its tokens are zero vectors that close at time 0. There are first
    derivatives only. No utterance at all (B = 0) gives no token.
    """
    if max_tokens is None:
        max_tokens = int(n_tokens.max()) if len(n_tokens) else 0
    n_tokens = n_tokens.to(frames.device, non_blocking=True)
    if not alpha.numel():
        return _nothing(frames, alpha, n_tokens, max_tokens)
    ends = _frame_ends(alpha, n_tokens)  # [B, T]
    fires = torch.arange(1, max_tokens + 1, device=ends.device, dtype=ends.dtype)  # [N]: 1, 2, ..., N
    fires = torch.minimum(fires, ends.detach()[:, -1:])  # [B, N]; those past n_tokens[b] coincide with the last

    frame_before_fire = torch.searchsorted(ends.detach(), fires)  # [B, N] frames that end strictly before each fire
    pieces = _cut(ends, fires, frame_before_fire)
    weights = pieces.length + 0 * alpha.sum(1, keepdim=True)  # alpha that is not finite gives tokens that are not
    tokens = _integrate(frames, weights.to(frames.dtype), pieces)
    mask = torch.arange(max_tokens, device=ends.device) < n_tokens[:, None]
    return Fired(tokens=tokens, mask=mask, times=_fire_times(ends.detach(), fires, frame_before_fire, mask))


def _nothing(frames: Tensor, alpha: Tensor, n_tokens: Tensor, max_tokens: int) -> Fired:
    """Of no utterance or no frame: zero tokens [B, N, C], connected to the graph."""
    batch, _, width = frames.shape
    return Fired(tokens=frames.new_zeros(batch, max_tokens, width) + 0 * (frames.sum() + alpha.sum()),
                 mask=torch.arange(max_tokens, device=frames.device) < n_tokens[:, None],
                 times=torch.zeros(batch, max_tokens, device=frames.device))


@dataclass
class _Pieces:
    """The line cut at frame ends and fires: T + N pieces per utterance, in order, some of them empty."""

    length: Tensor  # [B, T + N], differentiable with respect to the frame ends
    frame: Tensor  # [B, T + N] the frame that a piece lies in
    token: Tensor  # [B, T + N] the token that a piece lies in; N behind the last fire, i.e. in padding
    first_of_frame: Tensor  # [B, T] the first piece of every frame
    first_of_token: Tensor  # [B, N + 1] the first piece of every token


def _cut(ends: Tensor, fires: Tensor, frame_before_fire: Tensor) -> _Pieces:
    """Merge frame ends [B, T] and fires [B, N]: every one of these points closes a piece.

    Where a fire and a frame end coincide the fire comes first, so that everything behind the last fire is padding.
    """
    batch, num_frames = ends.shape
    num_fires = fires.shape[1]
    closed_by_fire = frame_before_fire + torch.arange(num_fires, device=ends.device)
    # fires up to each frame's end; at the line's end all N count, also those past n_tokens[b]
    at_end = ends.detach() >= ends.detach()[:, -1:]
    fires_before = torch.where(at_end, num_fires, ends.detach().floor().long())
    closed_by_frame = fires_before + torch.arange(num_frames, device=ends.device)
    points = ends.new_zeros(batch, num_frames + num_fires)
    points = points.scatter(1, closed_by_fire, fires).scatter(1, closed_by_frame, ends)
    is_fire = torch.zeros(points.shape, dtype=torch.long, device=ends.device).scatter(1, closed_by_fire, 1)
    token = is_fire.cumsum(1) - is_fire  # fires before
    frame = torch.arange(num_frames + num_fires, device=ends.device) - token  # what closed before and was no fire
    return _Pieces(length=points.diff(dim=1, prepend=points.new_zeros(batch, 1)), frame=frame.clamp(max=num_frames - 1),
                   token=token, first_of_frame=F.pad(closed_by_frame[:, :-1] + 1, (1, 0)),
                   first_of_token=F.pad(closed_by_fire + 1, (1, 0)))


def _integrate(frames: Tensor, weights: Tensor, pieces: _Pieces) -> Tensor:
    """Tokens [B, N, C]: the sum over the pieces of each, frames [B, T, C] weighted by weights [B, T + N]."""
    sums = _segment_sums(frames.detach(), weights, pieces.frame, pieces.first_of_token)[:, :-1]  # without padding's
    return _WithFrameGradient.apply(sums, frames, weights.detach(), pieces.token, pieces.first_of_frame)


class _WithFrameGradient(torch.autograd.Function):
    """The tokens, whose gradient for `frames` is a segment sum itself.

    `embedding_bag`'s own backward would clear and then fill the largest tensor of the step, and on a GPU sort first.
    The weights are constants here, though alpha moves them: second derivatives would lack that part.
    """

    @staticmethod
    def forward(ctx, tokens, frames, weights, token_of_piece, first_of_frame):
        ctx.save_for_backward(weights, token_of_piece, first_of_frame)
        return tokens.view_as(tokens)

    @staticmethod
    def backward(ctx, grad):
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError("CIF has no second derivatives: differentiate its tokens without create_graph")
        weights, token_of_piece, first_of_frame = ctx.saved_tensors
        token_of_piece = token_of_piece.clamp(max=grad.shape[1] - 1)  # padding, whose weights are zero
        return grad, _segment_sums(grad, weights, token_of_piece, first_of_frame), None, None, None


def _segment_sums(rows: Tensor, weights: Tensor, row_of_piece: Tensor, first_of_segment: Tensor) -> Tensor:
    """Sums [B, S, C] over consecutive pieces of weights [B, P] times rows [B, R, C] at row_of_piece [B, P]."""
    batch, num_rows, width = rows.shape
    utterance = torch.arange(batch, device=rows.device)[:, None]
    sums = F.embedding_bag((row_of_piece + utterance * num_rows).view(-1), rows.reshape(batch * num_rows, width),
                           (first_of_segment + utterance * weights.shape[1]).view(-1), mode="sum",
                           per_sample_weights=weights.reshape(-1))
    return sums.view(batch, -1, width)


def _frame_ends(alpha: Tensor, n_tokens: Tensor) -> Tensor:
    """A_t, the scaled running sum [B, T]; its last value is exactly n_tokens[b] (x / x is 1 in floating point)."""
    total = _running_sum(alpha)
    last = total[:, -1:]
    return total / torch.where(last > 0, last, 1) * n_tokens[:, None]


def _running_sum(alpha: Tensor) -> Tensor:
    """Cumulative sum in float64: rounding it to half precision moves most fires (float32 where there is no float64)."""
    wide = alpha.to(torch.float32 if alpha.device.type == "mps" else torch.float64)
    return wide.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).cumsum(1)  # places must exist; see `fire` for the values


def _fire_times(ends: Tensor, fires: Tensor, frame: Tensor, mask: Tensor) -> Tensor:
    """[B, N] position of each fire in frames: whole frames before it plus the share of its frame up to it."""
    frame = frame.clamp(max=ends.shape[1] - 1)
    after = ends.gather(1, frame)
    before = torch.where(frame > 0, ends.gather(1, (frame - 1).clamp(min=0)), 0)
    length = after - before
    share = torch.where(length > 0, (fires - before) / torch.where(length > 0, length, 1), 0)
    return torch.where(mask, frame + share, 0).float()


def scale_locally(alpha: Tensor, cuts: Tensor) -> Tensor:
    """Alpha that sums to 1 between neighbouring cuts, so that an error of one token moves no other token's fire.

    alpha: [B, T], non-negative, zero on padding; cuts: [B, N] int64, the whole frame at which each token's stretch
    ends, ascending from at least 1; -1 behind the last, and where an utterance has none its alpha stays as it is.
    A stretch without any alpha is spread evenly. Returns [B, T]; gradients reach alpha, cuts are constants.
    """
    known = cuts[:, :1] > 0  # [B, 1]
    ends = torch.where(cuts > 0, cuts, torch.iinfo(torch.int64).max)
    frames = torch.arange(alpha.shape[1], device=alpha.device).expand(alpha.shape)
    stretch = torch.searchsorted(ends.contiguous(), frames.contiguous(), right=True)  # [B, T]; N or more: padding
    inside = stretch < (cuts > 0).sum(1, keepdim=True)
    stretch = stretch.clamp(max=cuts.shape[1] - 1)
    wide = alpha.double() if alpha.device.type != "mps" else alpha
    nothing = wide.new_zeros(cuts.shape)
    sums = nothing.scatter_add(1, stretch, torch.where(inside, wide, 0)).gather(1, stretch)  # [B, T]
    sizes = nothing.scatter_add(1, stretch, inside.to(wide)).gather(1, stretch)
    shares = torch.where(sums > 0, wide / torch.where(sums > 0, sums, 1), 1 / sizes.clamp(min=1))
    return torch.where(known, torch.where(inside, shares, 0), wide)

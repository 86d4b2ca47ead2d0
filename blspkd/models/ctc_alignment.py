"""Which frames CTC gives to each label: the most likely path (Viterbi) of a transcript, or of a number of labels."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from blspkd.models.token_counter import BLANK


def align(log_probs: np.ndarray, lengths: np.ndarray, targets: list[np.ndarray]) -> np.ndarray:
    """First and last frame of each token on the most likely path.

    log_probs [B, T, V], real up to lengths [B]; targets: classes of each utterance, without blanks. Returns [B, U, 2]
    float32; NaN behind the end of a target, and for all of a target that does not fit into its frames.
    """
    size, num_frames, _ = log_probs.shape
    counts = np.array([len(target) for target in targets])
    num_states = 2 * counts.max() + 1  # blank, first token, blank, second token, ... blank
    labels = np.full((size, num_states), BLANK)
    for row, target in enumerate(targets):
        labels[row, 1:2 * len(target):2] = target
    may_skip = np.zeros((size, num_states), dtype=bool)  # over the blank between two different tokens
    may_skip[:, 2:] = (labels[:, 2:] != BLANK) & (labels[:, 2:] != labels[:, :-2])
    emitted = np.take_along_axis(log_probs, labels[:, None, :], axis=2)  # [B, T, S]

    score = np.full((size, num_states), -np.inf, dtype=np.float32)
    score[:, :2] = emitted[:, 0, :2]
    steps = np.zeros((num_frames, size, num_states), dtype=np.int8)  # how many states the path came ahead
    scores = [score]
    for frame in range(1, num_frames):
        before = np.full((3, size, num_states), -np.inf, dtype=np.float32)
        before[0] = score
        before[1, :, 1:] = score[:, :-1]
        before[2, :, 2:] = np.where(may_skip[:, 2:], score[:, :-2], -np.inf)
        steps[frame] = before.argmax(axis=0)
        score = before.max(axis=0) + emitted[:, frame]
        scores.append(score)

    rows = np.arange(size)
    spans = np.full((size, counts.max(), 2), np.nan, dtype=np.float32)
    at_end = np.stack(scores)[lengths - 1, rows]  # [B, S]
    state = np.where(at_end[rows, 2 * counts] >= at_end[rows, 2 * counts - 1], 2 * counts, 2 * counts - 1)
    fits = np.isfinite(at_end[rows, state])
    for frame in range(num_frames - 1, -1, -1):
        inside = fits & (frame < lengths)
        speaking = rows[inside & (state % 2 == 1)]
        token = state[speaking] // 2
        spans[speaking, token, 0] = frame
        spans[speaking, token, 1] = np.fmax(spans[speaking, token, 1], frame)
        state = np.where(inside, state - steps[frame, rows, state], state)
    return spans


@torch.no_grad()
def align_count(logits: Tensor, lengths: Tensor, counts: Tensor) -> np.ndarray:
    """The same for the most likely path that says counts[b] labels, whichever they are.

    logits: [B, T, K + 1], real up to lengths [B]; counts: [B], at least 1. Returns [B, U, 2] as `align` does. The
    states are those of count_posterior.py, with the best of all paths in the place of their sum.
    """
    log_probs = logits.float().log_softmax(-1)
    batch, num_frames, symbols = logits.shape
    rows, counts = torch.arange(batch, device=logits.device), counts.to(logits.device)
    lengths = lengths.to(logits.device)
    score = log_probs.new_full((batch, int(counts.max()) + 1, symbols), -torch.inf)  # [B, N + 1, K + 1]
    score[:, 0, BLANK] = 0  # before the first frame
    ends = score[rows, counts]  # [B, K + 1], of each row at its last frame
    stays, firsts, seconds = [], [], []
    for frame in range(num_frames):
        best, first = score.max(-1)  # [B, N + 1]
        other, second = score.scatter(-1, first[..., None], -torch.inf).max(-1)
        step = best[..., None].expand_as(score).scatter(-1, first[..., None], other[..., None])  # from other labels
        step = F.pad(step[:, :-1], (0, 0, 1, 0), value=-torch.inf)  # one label fewer before
        stays.append(score >= step)
        firsts.append(first)
        seconds.append(second)
        score = torch.maximum(score, step)
        score[..., BLANK] = best
        score = score + log_probs[:, frame, None]
        ends = torch.where((lengths == frame + 1)[:, None], score[rows, counts], ends)
    value, symbol = ends.max(-1)
    fits, number = value.isfinite(), counts.clone()
    spans = np.full((batch, int(counts.max()), 2), np.nan, dtype=np.float32)
    for frame in range(num_frames - 1, -1, -1):
        inside = fits & (frame < lengths)
        is_label = symbol != BLANK
        at, token = rows[inside & is_label].cpu().numpy(), (number - 1)[inside & is_label].cpu().numpy()
        spans[at, token, 0] = frame
        spans[at, token, 1] = np.fmax(spans[at, token, 1], frame)
        stay = is_label & stays[frame][rows, number, symbol]
        before = torch.where(is_label & ~stay, number - 1, number).clamp(min=0)
        first, second = firsts[frame][rows, before], seconds[frame][rows, before]
        came_from = torch.where(stay, symbol, torch.where(is_label & (first == symbol), second, first))
        symbol, number = torch.where(inside, came_from, symbol), torch.where(inside, before, number)
    return spans


def cuts_between(spans: np.ndarray, counts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Where each label's stretch ends, in whole frames: half-way to the next label, the last at the utterance's end.

    spans: [B, U, 2] of `align`; counts: [B] labels; lengths: [B] frames. Returns [B, U] int64; -1 behind the last
    label, and everywhere where the labels do not fit into the frames.
    """
    cuts = np.full(spans.shape[:2], -1, dtype=np.int64)
    fits = ~np.isnan(spans[:, 0, 0])
    halves = (spans[:, :-1, 1] + 1 + spans[:, 1:, 0]) // 2  # [B, U - 1]
    inner = np.arange(1, spans.shape[1]) < counts[:, None]
    cuts[:, :-1] = np.where(fits[:, None] & inner, np.nan_to_num(halves, nan=-1), -1)
    cuts[fits, counts[fits] - 1] = lengths[fits]
    return cuts

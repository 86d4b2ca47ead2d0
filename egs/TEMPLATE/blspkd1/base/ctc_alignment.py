"""Which frames CTC gives to each token: the best path through a known transcript (Viterbi)."""

import numpy as np

BLANK = 0


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

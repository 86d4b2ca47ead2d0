"""Which frames CTC gives to each token: the best path through a known transcript (Viterbi)."""

import numpy as np
from transformers import PreTrainedTokenizerBase

from blspkd.data.control_tokens import read_texts

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


def word_tokens(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> tuple[list[list[int]], list[np.ndarray]]:
    """The tokens of each text, and the number of the word that each is part of.

    For tokenizers to which a word is the same wherever it stands, as that of train_tokenizer.py.
    """
    words = sorted({word for text in texts for word in text.split()})
    tokens = dict(zip(words, read_texts(tokenizer, words), strict=True))
    rows = [[token for word in text.split() for token in tokens[word]] for text in texts]
    numbers = [np.repeat(np.arange(len(text.split())), [len(tokens[word]) for word in text.split()]) for text in texts]
    return rows, numbers


def word_frames(spans: np.ndarray, words: np.ndarray) -> np.ndarray:
    """spans [U, 2] of tokens of words [U] -> first and last frame of each word [W, 2]; NaN: unknown."""
    found = np.empty((words[-1] + 1, 2), dtype=np.float32)
    found[:, 0], found[:, 1] = np.inf, -np.inf
    np.minimum.at(found[:, 0], words, spans[:, 0])
    np.maximum.at(found[:, 1], words, spans[:, 1])
    return found

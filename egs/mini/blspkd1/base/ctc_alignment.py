"""Words of a known transcript, and the frames that CTC gives to their tokens (blspkd/models/ctc_alignment.py)."""

import numpy as np
from transformers import PreTrainedTokenizerBase

from blspkd.data.control_tokens import read_texts


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

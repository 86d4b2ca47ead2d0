"""Sampling whose result belongs to the utterance: no batch mate, batch order, part size or job count changes it.

Each utterance draws its random numbers from its own stream (seed and utterance id), one number for each token; the
token is where that number falls on the cumulated distribution. `generate` then runs greedily over what is chosen here.
"""

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from blspkd.files import text_digest


def utterance_seed(seed: int, utt_id: str) -> int:
    """128 bits, the same for the same seed and utterance on every machine."""
    return int(text_digest(f"{seed} {utt_id}")[:32], 16)


def uniform_stream(seed: int, utt_id: str, length: int) -> np.ndarray:
    """`length` numbers in [0, 1), float64, the same for the same seed and utterance on every machine."""
    return uniforms(utterance_seed(seed, utt_id), length)


def uniforms(seed: int, length: int) -> np.ndarray:
    """`length` numbers in [0, 1), float64, the same for the same seed (up to 128 bits) on every machine."""
    return np.random.Generator(np.random.PCG64(seed)).random(length)


def pick(logits: Tensor, uniform: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """Sample one token per row by inverting the cumulative distribution.

    logits:  [B, V]
    uniform: [B] in [0, 1)
    top_p:   keeps the most probable tokens that together reach this mass (nucleus sampling, arXiv 1904.09751)
    Returns token ids [B]. The tokens are cumulated in the order of their ids, so that a rounding difference moves
    the borders a little and never the order.
    """
    # logits, probabilities, cumulated: [B, V]
    probabilities = torch.softmax(logits.float() / temperature, dim=-1).double()
    if top_p < 1.0:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= top_p  # the tokens before this one reach the mass already
        probabilities = probabilities.masked_fill(beyond.scatter(-1, order, beyond), 0.0)
    cumulated = probabilities.cumsum(-1)
    threshold = uniform.to(cumulated)[:, None] * cumulated[:, -1:]
    picked = torch.searchsorted(cumulated, threshold, right=True).squeeze(-1)
    # u * sum can round up to the sum itself: then the last token with a probability is meant.
    last = cumulated.shape[-1] - 1 - (probabilities > 0).flip(-1).to(torch.uint8).argmax(-1)
    return torch.minimum(picked, last)


class UtteranceSampler(LogitsProcessor):
    """Leaves, for each row, only the token that the row's own random stream chooses."""

    def __init__(self, uniforms: np.ndarray, temperature: float, top_p: float, device: str | torch.device = "cpu"):
        """uniforms: [B, max_new_tokens]"""
        self.uniforms = torch.from_numpy(uniforms).to(device)  # once, not at every step
        self.temperature = temperature
        self.top_p = top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids: [B, L] written so far; scores: [B, V]; returns 0 at the chosen token and -inf elsewhere."""
        uniform = self.uniforms[:, input_ids.shape[1]]
        chosen = pick(scores, uniform, self.temperature, self.top_p)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen[:, None], 0.0)


class RowSampler(LogitsProcessor):
    """The same with options of each row's own; rows without random numbers stay as they are (greedy)."""

    def __init__(self, uniforms: list[np.ndarray | None], temperatures: list[float], top_ps: list[float]):
        """uniforms: [max_new_tokens] of each row, or None."""
        self.rows = [(row, *of_row) for row, of_row in enumerate(zip(uniforms, temperatures, top_ps, strict=True))
                     if of_row[0] is not None]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        for row, uniforms, temperature, top_p in self.rows:
            if input_ids.shape[1] >= len(uniforms):
                continue  # its reply is complete, others are not
            uniform = torch.tensor(uniforms[input_ids.shape[1]:input_ids.shape[1] + 1])
            chosen = pick(scores[row:row + 1], uniform, temperature, top_p)
            scores[row] = -torch.inf
            scores[row, chosen] = 0.0
        return scores

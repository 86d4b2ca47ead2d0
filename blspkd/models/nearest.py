"""Speech tokens beside the LLM's text embeddings: which token each is nearest to, and tokens that are drawn to it.

Where an adapter has learnt to put out text embeddings, the nearest ones read as a transcript without any LLM; and what
distance remains moves an LLM's answers, so that tokens may be snapped to the embeddings before it reads them.
"""

from typing import Literal

import torch
from torch import Tensor

CHUNK = 32 << 20  # numbers in a piece of the similarities [n, V]


def nearest(tokens: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest embedding (Euclidean) of every token, and how sure that is.

    tokens: [n, D]; embeddings: [V, D]. Returns ids [n] and confidences [n]: the nearest one's share of
    exp(-|token - embedding|^2 / (2 s^2)) over all embeddings, s^2 being the smallest of the distances' mean squares per
    dimension.
    """
    ids, sure = [], []
    squares = embeddings.float().pow(2).sum(1)  # [V]
    for piece in tokens.float().split(max(1, CHUNK // len(embeddings))):
        distances = piece.pow(2).sum(1)[:, None] - 2 * piece @ embeddings.float().T + squares  # [m, V]
        smallest, index = distances.min(1)
        spread = (smallest / tokens.shape[1]).clamp(min=1e-12)[:, None]
        sure.append(1 / torch.exp((smallest[:, None] - distances) / (2 * spread)).sum(1))
        ids.append(index)
    if not ids:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    return torch.cat(ids), torch.cat(sure)


def snap(tokens: Tensor, embeddings: Tensor, how: Literal["none", "hard", "soft"]) -> Tensor:
    """tokens [n, D]: as they are, replaced by the nearest embeddings (hard), or drawn to them by confidence (soft)."""
    if how == "none" or not len(tokens):
        return tokens
    ids, sure = nearest(tokens, embeddings)
    nearby = embeddings[ids].to(tokens.dtype)
    return nearby if how == "hard" else torch.lerp(tokens, nearby, sure[:, None].to(tokens.dtype))

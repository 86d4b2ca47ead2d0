"""Speech tokens beside the LLM's text embeddings: which token each is nearest to, and tokens that are drawn to it.

Where an adapter has learnt to put out text embeddings, the nearest ones read as a transcript without any LLM; and what
distance remains moves an LLM's answers, so that tokens may be snapped to the embeddings before it reads them.
"""

from typing import Literal

import torch
from torch import Tensor

CHUNK = 4 << 20  # numbers in a piece of the logits [n, V]
TEMPERATURE = 0.1


def choice_logits(tokens: Tensor, embeddings: Tensor, mean_square: float, temperature: float = TEMPERATURE) -> Tensor:
    """Logits [n, V] of a choice by distance, each row but for a constant: exp(-|token - embedding|^2 / scale).

    tokens: [n, D]; embeddings: [V, D]. scale = temperature * D * mean_square, so that the temperature is one of squared
    distances relative to the mean squared norm of the embeddings; mean_square: of one element of those.
    """
    scale = temperature * embeddings.shape[1] * mean_square
    with torch.autocast(tokens.device.type, enabled=False):  # differences of large numbers
        tokens, embeddings = tokens.float(), embeddings.float()
        return (2 * tokens @ embeddings.T - embeddings.pow(2).sum(1)) / scale


def nearest(tokens: Tensor, embeddings: Tensor, mean_square: float) -> tuple[Tensor, Tensor]:
    """The nearest embedding (Euclidean) of every token, and how sure that is: its share in `choice_logits`.

    tokens: [n, D]; embeddings: [V, D]. Returns ids [n] and shares [n].
    """
    ids, sure = [torch.zeros(0, dtype=torch.int64, device=tokens.device)], [tokens.new_zeros(0, dtype=torch.float32)]
    for piece in tokens.split(max(1, CHUNK // len(embeddings))):
        share, index = choice_logits(piece, embeddings, mean_square).softmax(1).max(1)
        sure.append(share)
        ids.append(index)
    return torch.cat(ids), torch.cat(sure)


def snap(tokens: Tensor, embeddings: Tensor, mean_square: float, how: Literal["none", "hard", "soft"]) -> Tensor:
    """tokens [n, D]: as they are, replaced by the nearest embeddings (hard), or drawn to them by confidence (soft)."""
    if how == "none":
        return tokens
    ids, sure = nearest(tokens, embeddings, mean_square)
    nearby = embeddings[ids].to(tokens.dtype)
    return nearby if how == "hard" else torch.lerp(tokens, nearby, sure[:, None].to(tokens.dtype))

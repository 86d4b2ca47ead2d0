"""Speech tokens beside the LLM's text embeddings: which token each is nearest to, and tokens that are drawn to it.

Where an adapter has learnt to put out text embeddings, the nearest ones read as a transcript without any LLM; and what
distance remains moves an LLM's answers, so that tokens may be snapped to the embeddings before it reads them.
"""

from typing import Literal

import torch
from torch import Tensor

CHUNK = 4 << 20  # numbers in a piece of the logits [n, V]; a piece has the embeddings of all tokens, or some
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


def nearest(tokens: Tensor, embeddings: Tensor, mean_square: float, allowed: Tensor | None = None
            ) -> tuple[Tensor, Tensor]:
    """The nearest embedding (Euclidean) of every token, and how sure that is: its share in `choice_logits`.

    tokens: [n, D]; embeddings: [V, D]; allowed: [V] bool, the embeddings to choose from; None: all. Returns ids [n] and
    shares [n].
    """
    ids = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
    best = torch.full(ids.shape, -torch.inf, device=tokens.device)
    total = best.clone()  # log of the sum over all choices
    size = max(1, CHUNK // max(1, len(tokens)))
    for start in range(0, len(embeddings), size):  # each embedding is made float32 once
        logits = choice_logits(tokens, embeddings[start:start + size], mean_square)
        if allowed is not None:
            logits = logits.masked_fill(~allowed[start:start + size].to(logits.device), -torch.inf)
        highest, index = logits.max(1)
        ids = torch.where(highest > best, index + start, ids)
        best = torch.maximum(best, highest)
        total = torch.logaddexp(total, logits.logsumexp(1))
    return ids, (best - total).exp()


def snap(tokens: Tensor, embeddings: Tensor, mean_square: float, how: Literal["none", "hard", "soft"],
         allowed: Tensor | None = None) -> Tensor:
    """tokens [n, D]: as they are, replaced by the nearest embeddings (hard), or drawn to them by confidence (soft)."""
    if how == "none":
        return tokens
    ids, sure = nearest(tokens, embeddings, mean_square, allowed)
    nearby = embeddings[ids].to(tokens.dtype)
    return nearby if how == "hard" else torch.lerp(tokens, nearby, sure[:, None].to(tokens.dtype))

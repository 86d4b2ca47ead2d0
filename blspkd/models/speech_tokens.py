"""What every adapter returns: the speech tokens that stand where the transcript's tokens would stand."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class SpeechTokens:
    """Speech as the LLM reads it."""

    tokens: Tensor  # [B, N, D]
    n_tokens: Tensor  # [B] int64, on the CPU: real tokens per utterance
    alpha: Tensor | None = None  # [B, T] unscaled firing weights, zero on padding; None without CIF
    fire_times: Tensor | None = None  # [B, N] in encoder frames; None without CIF


class EmbeddingNorm(nn.Module):
    """Give every token the root mean square of the LLM's text embeddings, which is what its first layer expects."""

    def __init__(self, rms: float):
        super().__init__()
        self.rms = rms

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [..., D]"""
        scale = self.rms * torch.rsqrt(tokens.float().pow(2).mean(-1, keepdim=True) + 1e-12)
        return (tokens.float() * scale).to(tokens.dtype)

"""What every adapter returns: the speech tokens that stand where the transcript's tokens would stand."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class SpeechTokens:
    """Speech as the LLM reads it."""

    tokens: Tensor  # [B, N, D]
    n_tokens: Tensor  # [B] int64, on the CPU: real tokens per utterance
    n_predicted: Tensor | None = None  # [B] int64: what n_tokens is, or would have been, when nobody gives it
    alpha: Tensor | None = None  # [B, T] unscaled firing weights, zero on padding; None without CIF
    stacked: int = 1  # encoder frames in one of alpha's T
    fire_times: Tensor | None = None  # [B, N] in encoder frames; None without CIF
    ctc_logits: Tensor | None = None  # [B, T, K + 1] of the token counter, class 0 is blank; None without one
    frame_lengths: Tensor | None = None  # [B] alpha's real frames, on the CPU; None without CIF

    def rows(self) -> Tensor:
        """The real tokens of all utterances, one behind the other: [sum of n_tokens, D]."""
        is_token = torch.arange(self.tokens.shape[1]) < self.n_tokens[:, None]
        index = is_token.view(-1).nonzero().squeeze(1).to(self.tokens.device, non_blocking=True)
        return self.tokens.flatten(0, 1).index_select(0, index)


def start_at_scale(projection: nn.Linear, rms: float) -> None:
    """Draw the weights anew, so that inputs of unit root mean square come out with `rms`."""
    nn.init.normal_(projection.weight, std=rms / projection.in_features**0.5)
    if projection.bias is not None:
        nn.init.zeros_(projection.bias)


class EmbeddingNorm(nn.Module):
    """Give every token the root mean square of the text's embeddings, which is what the LLM's first layer expects."""

    def __init__(self, rms: float):
        super().__init__()
        self.rms = rms

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [..., D]"""
        scale = self.rms * torch.rsqrt(tokens.float().pow(2).mean(-1, keepdim=True) + 1e-12)
        return (tokens.float() * scale).to(tokens.dtype)

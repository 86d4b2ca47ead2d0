"""Groups of k frames become one token: the listening half of Fun-Audio-Chat's dual resolution (arXiv 2512.20156).

Its released code takes the mean of the k embeddings and then a linear layer without bias; its report is also read as a
linear layer on the k embeddings side by side. Both are here: `projection` mean and concat.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from blspkd.models.adapters.adapter import Adapter, Sides, check_at_least
from blspkd.models.speech_tokens import EmbeddingNorm, SpeechTokens, start_at_scale


class Grouping(Adapter):
    """Frames [B, T, C] -> tokens [B, ceil(T / k), D]; their number follows the speech, not the transcript."""

    @dataclass
    class Options:
        size: int = 5  # k: frames in a group
        projection: Literal["mean", "concat"] = "mean"  # mean: C -> D, as released; concat: k * C -> D
        match_embedding_norm: bool = True  # fix the tokens' RMS to that of the LLM's embeddings

        def __post_init__(self):
            check_at_least(self, 1, "size")

    @classmethod
    def gives(cls, options: Options) -> frozenset[str]:
        return frozenset()

    def __init__(self, options: Options, sides: Sides):
        super().__init__(options, sides)
        self.size, self.concat = options.size, options.projection == "concat"
        width = sides.encoder_width * (options.size if self.concat else 1)
        self.to_llm = nn.Linear(width, sides.llm_width, bias=False)
        if not options.match_embedding_norm:
            start_at_scale(self.to_llm, sides.embedding_rms)
        self.norm = EmbeddingNorm(sides.embedding_rms) if options.match_embedding_norm else nn.Identity()

    def forward(self, frames: Tensor, lengths: Tensor, n_tokens: Tensor | None = None) -> SpeechTokens:
        """n_tokens is not used."""
        groups = in_groups(frames, self.size)  # [B, N, k, C]
        groups = groups.flatten(2) if self.concat else mean_of_groups(groups, lengths)  # [B, N, k * C] or [B, N, C]
        return SpeechTokens(tokens=self.norm(self.to_llm(groups)), n_tokens=(lengths - 1) // self.size + 1)


def in_groups(frames: Tensor, size: int) -> Tensor:
    """Frames [B, T, C], zero on padding -> groups of neighbours [B, ceil(T / size), size, C]; zeros fill the last."""
    return nn.functional.pad(frames, (0, 0, 0, -frames.shape[1] % size)).unflatten(1, (-1, size))


def mean_of_groups(groups: Tensor, lengths: Tensor) -> Tensor:
    """The mean of each group's real frames: [B, N, k, C], zero on padding, and lengths [B] in frames -> [B, N, C]."""
    size = groups.shape[2]
    starts = size * torch.arange(groups.shape[1])
    real = (lengths[:, None] - starts).clamp(1, size).to(groups.device)  # [B, N] frames; a group of none stays 0
    return groups.sum(2) / real[..., None]

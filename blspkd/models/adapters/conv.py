"""BLSP's adapter (arXiv 2309.00916, section 3.1), the baseline: stride-2 convolutions and a bottleneck."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blspkd.models.adapters.adapter import Adapter, Sides, check_at_least
from blspkd.models.speech_tokens import EmbeddingNorm, SpeechTokens, start_at_scale


class ConvSubsampler(Adapter):
    """Frames [B, T, C] -> tokens [B, ceil(T / 2^layers), D]; their number follows the speech, not the transcript."""

    @dataclass
    class Options:
        layers: int = 3  # stride-2 convolutions
        bottleneck: int = 512  # inner width
        match_embedding_norm: bool = True  # fix the tokens' RMS to that of the LLM's embeddings

        def __post_init__(self):
            check_at_least(self, 0, "layers")
            check_at_least(self, 1, "bottleneck")

    @classmethod
    def gives(cls, options: Options) -> frozenset[str]:
        return frozenset()

    def __init__(self, options: Options, sides: Sides):
        super().__init__(options, sides)
        width = sides.encoder_width
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, kernel_size=5, stride=2, padding=2) for _ in range(options.layers))
        self.bottleneck = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, options.bottleneck), nn.GELU(),
                                        nn.Linear(options.bottleneck, sides.llm_width))
        if not options.match_embedding_norm:
            start_at_scale(self.bottleneck[-1], sides.embedding_rms)
        self.norm = EmbeddingNorm(sides.embedding_rms) if options.match_embedding_norm else nn.Identity()

    def forward(self, frames: Tensor, lengths: Tensor, n_tokens: Tensor | None = None) -> SpeechTokens:
        """n_tokens is not used."""
        hidden = frames.transpose(1, 2)  # [B, C, T]
        for convolution in self.convolutions:
            hidden = nn.functional.gelu(convolution(hidden))  # [B, C, ceil(T / 2)]
            lengths = (lengths - 1) // 2 + 1
            valid = torch.arange(hidden.shape[2], device=hidden.device) < lengths.to(hidden.device)[:, None]
            hidden = hidden.masked_fill(~valid[:, None], 0)
        tokens = self.norm(self.bottleneck(hidden.transpose(1, 2)))  # [B, N, D]
        return SpeechTokens(tokens=tokens, n_tokens=lengths)

"""BLSP's adapter (arXiv 2309.00916, section 3.1), the baseline: stride-2 convolutions and a bottleneck."""

import torch
from torch import Tensor, nn

from blspkd.config import ModelConfig
from blspkd.models.speech_tokens import EmbeddingNorm, SpeechTokens


class ConvSubsampler(nn.Module):
    """Frames [B, T, C] -> tokens [B, ceil(T / 2^layers), D]; their number follows the speech, not the transcript."""

    matches_text_length = False

    def __init__(self, config: ModelConfig, width: int, llm_width: int, embedding_rms: float):
        """width: C, llm_width: D, embedding_rms: of the LLM's input embeddings."""
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, kernel_size=5, stride=2, padding=2) for _ in range(config.conv_layers))
        self.bottleneck = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.conv_bottleneck), nn.GELU(),
                                        nn.Linear(config.conv_bottleneck, llm_width))
        self.norm = EmbeddingNorm(embedding_rms) if config.match_embedding_norm else nn.Identity()

    def forward(self, frames: Tensor, lengths: Tensor, n_tokens: Tensor | None = None) -> SpeechTokens:
        """frames: [B, T, C], zero on padding; lengths: [B], on the CPU; n_tokens is not used."""
        hidden = frames.transpose(1, 2)
        for convolution in self.convolutions:
            hidden = nn.functional.gelu(convolution(hidden))
            lengths = (lengths - 1) // 2 + 1
            valid = torch.arange(hidden.shape[2], device=hidden.device) < lengths.to(hidden.device)[:, None]
            hidden = hidden.masked_fill(~valid[:, None], 0)
        return SpeechTokens(tokens=self.norm(self.bottleneck(hidden.transpose(1, 2))), n_tokens=lengths)

"""CFormer, the adapter of BLSP-KD (arXiv 2405.19041, section 3.2): as many speech tokens as the text has tokens.

frames -> pre-CIF Transformer layers -> alpha and frames -> CIF -> post-CIF Transformer layers -> LLM width.
"""

import torch
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

from blspkd.config import ModelConfig
from blspkd.models import cif
from blspkd.models.speech_encoder import attention_mask
from blspkd.models.speech_tokens import EmbeddingNorm, SpeechTokens
from blspkd.models.token_counter import TokenCounter, count_labels


class CFormer(nn.Module):
    """Cuts frames [B, T, C] into tokens [B, N, D].

    `alpha` comes from a linear layer of its own with a negative start bias, which trains much better than the last
    channel of the layer below. With `match_embedding_norm` every token gets the RMS of the LLM's embeddings.
    """

    matches_text_length = True

    def __init__(self, config: ModelConfig, width: int, llm_width: int, embedding_rms: float):
        """width: C, llm_width: D, embedding_rms: of the LLM's input embeddings."""
        super().__init__()
        self.pre_cif_layers = _layers(config, width, config.num_pre_cif_layers)
        self.pre_cif_norm = nn.LayerNorm(width)
        self.to_alpha = nn.Linear(width, 1)
        self.to_frames = nn.Linear(width, width)
        self.post_cif_layers = _layers(config, width, config.num_post_cif_layers)
        self.post_cif_norm = nn.LayerNorm(width)
        self.to_llm = nn.Linear(width, llm_width)
        self.norm = EmbeddingNorm(embedding_rms) if config.match_embedding_norm else nn.Identity()
        nn.init.constant_(self.to_alpha.bias, config.alpha_bias)
        self.counter = TokenCounter(width, config.ctc_classes) if config.ctc_classes else None
        self.count_by = config.count

    def forward(self, frames: Tensor, lengths: Tensor, n_tokens: Tensor | None = None) -> SpeechTokens:
        """frames: [B, T, C]; lengths: [B] and n_tokens: [B], both on the CPU.

        n_tokens is the transcripts' token counts in training, None at inference (then alpha, or the token counter,
        says).
        """
        for layer in self.pre_cif_layers:
            frames = layer(frames, attention_mask=attention_mask(lengths, frames))
        frames = self.pre_cif_norm(frames)
        # Out of autocast: CIF's sums, and with them the places of the fires, need float32.
        with torch.autocast(frames.device.type, enabled=False):
            alpha = self.to_alpha(frames.float()).squeeze(-1).sigmoid()
        valid = torch.arange(frames.shape[1], device=frames.device) < lengths.to(frames.device)[:, None]
        alpha = alpha.masked_fill(~valid, 0)
        ctc_logits = self.counter(frames) if self.counter else None
        predicted = count_labels(ctc_logits, lengths) if self.count_by == "ctc" else cif.count(alpha.detach())
        if n_tokens is None:
            n_tokens = predicted.cpu()
        fired = cif.fire(self.to_frames(frames).float(), alpha, n_tokens)
        tokens = fired.tokens
        for layer in self.post_cif_layers:
            tokens = layer(tokens, attention_mask=attention_mask(n_tokens, tokens))
        tokens = self.norm(self.to_llm(self.post_cif_norm(tokens)))
        return SpeechTokens(tokens=tokens, n_tokens=n_tokens, n_predicted=predicted, alpha=alpha,
                            fire_times=fired.times, ctc_logits=ctc_logits, frame_lengths=lengths)


def _layers(config: ModelConfig, width: int, number: int) -> nn.ModuleList:
    layer = WhisperConfig(d_model=width, encoder_attention_heads=config.adapter_heads, dropout=config.adapter_dropout,
                          encoder_ffn_dim=config.adapter_ffn_dim, attn_implementation=config.attn_implementation)
    return nn.ModuleList(WhisperEncoderLayer(layer) for _ in range(number))

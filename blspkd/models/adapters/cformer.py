"""CFormer, the adapter of BLSP-KD (arXiv 2405.19041, section 3.2): as many speech tokens as the text has tokens.

frames -> pre-CIF Transformer layers -> alpha and frames -> CIF -> post-CIF Transformer layers -> LLM width.
With `stack_frames` (not in the paper) several frames become one before all that, at a cost divided by their number.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

from blspkd.config_file import from_dict
from blspkd.errors import ConfigError
from blspkd.models import cif
from blspkd.models.adapters.adapter import Adapter, Sides, check_at_least
from blspkd.models.count_posterior import likeliest_count
from blspkd.models.ctc_alignment import align, align_count, cuts_between
from blspkd.models.speech_encoder import attention_mask
from blspkd.models.speech_tokens import EmbeddingNorm, SpeechTokens, start_at_scale
from blspkd.models.text_residual import TextResidual
from blspkd.models.token_counter import SURE_BLANK, TokenCounter, count_labels, token_classes


class CFormer(Adapter):
    """Cuts frames [B, T, C] into tokens [B, N, D].

    `alpha` comes from a linear layer of its own with a negative start bias, which trains much better than the last
    channel of the layer below. With `match_embedding_norm` every token gets the RMS of the LLM's embeddings.
    """

    free = frozenset({"dropout", "alpha_bias", "count", "count_spread", "text_gate", "acoustic_gate"})

    @dataclass
    class Options:
        num_pre_cif_layers: int = 4
        num_post_cif_layers: int = 4
        heads: int = 8
        ffn_dim: int = 2048
        dropout: float = 0.0
        stack_frames: int = 1  # encoder frames that become one at the start; 2 halves the cost
        alpha_bias: float = -1.3  # start of the logit of alpha: sigmoid(-1.3) = 0.21 tokens per (stacked) frame
        match_embedding_norm: bool = True  # fix the tokens' RMS to that of the LLM's embeddings
        # how many tokens at inference: the rounded sum of alpha, the labels of the token counter's likeliest path, or
        # the mean of both; the likeliest number over all of its paths (models/count_posterior.py), by itself or times
        # exp(-|n - sum of alpha| / count_spread)
        count: Literal["alpha", "ctc", "both", "posterior", "posterior_alpha"] = "alpha"
        count_spread: float = 1.5  # in tokens; chosen on the validation set of egs/mini
        # alpha is scaled to the number of tokens as a whole, or to 1 between the middles of neighbouring CTC labels: of
        # the transcript's in training, at inference of the likeliest path with so many labels (ctc_alignment.py)
        scaling: Literal["global", "local"] = "global"
        # added to every token: the embeddings of what the token counter hears in its frames, by its probabilities or
        # the likeliest one alone, times a learnt gate that starts at 0 (models/text_residual.py)
        text_residual: Literal["none", "posterior", "best"] = "none"
        # ... or here, where the counter hears already (training.init_ctc_head); and the start of CIF's own share
        text_gate: float = 0.0
        acoustic_gate: float = 1.0
        ctc_classes: int = 0  # token counter: a CTC head over so many classes of tokens; 0: none
        ctc_frames: Literal["pre_cif", "encoder"] = "pre_cif"  # what it reads: frames behind or before those layers

        def __post_init__(self):
            check_at_least(self, 0, "num_pre_cif_layers", "num_post_cif_layers", "ctc_classes")
            check_at_least(self, 1, "heads", "ffn_dim", "stack_frames")
            if self.text_residual != "none" and self.ctc_classes < 1:
                raise ConfigError(f"text_residual: {self.text_residual} needs the counter that ctc_classes makes, with "
                                  "a class for every token of the LLM")
            if self.scaling == "local" and self.ctc_classes < 1:
                raise ConfigError("scaling: local needs the counter that ctc_classes makes; 509 is a good size")
            if self.ctc_frames == "encoder" and self.stack_frames > 1:
                raise ConfigError("ctc_frames: encoder does not go together with stack_frames: CIF's frames are others")
            if self.count_spread <= 0:
                raise ConfigError(f"count_spread: {self.count_spread} is not a positive number of tokens")
            if self.count != "alpha" and self.ctc_classes < 1:
                raise ConfigError(f"count: {self.count} needs the counter that ctc_classes makes; 509 is a good size")

    @classmethod
    def gives(cls, options: Options) -> frozenset[str]:
        return frozenset({"aligned", "alpha"} | ({"ctc"} if options.ctc_classes else set()))

    def __init__(self, options: Options, sides: Sides):
        super().__init__(options, sides)
        width = sides.encoder_width
        if width % options.heads:
            raise ConfigError(f"adapter_options: heads: {options.heads} heads do not divide the encoder's width "
                              f"{width}")
        self.stack = _FrameStack(width, options.stack_frames) if options.stack_frames > 1 else None
        self.pre_cif_layers = _layers(options, sides, options.num_pre_cif_layers)
        self.pre_cif_norm = nn.LayerNorm(width)
        self.to_alpha = nn.Linear(width, 1)
        self.to_frames = nn.Linear(width, width)
        self.post_cif_layers = _layers(options, sides, options.num_post_cif_layers)
        self.post_cif_norm = nn.LayerNorm(width)
        self.to_llm = nn.Linear(width, sides.llm_width)
        self.norm = EmbeddingNorm(sides.embedding_rms) if options.match_embedding_norm else nn.Identity()
        if not options.match_embedding_norm:  # else the start is many times too loud for an LLM of small embeddings
            start_at_scale(self.to_llm, sides.embedding_rms)
        nn.init.constant_(self.to_alpha.bias, options.alpha_bias)
        self.counter = TokenCounter(width, options.ctc_classes) if options.ctc_classes else None
        self.text = None
        if options.text_residual != "none":
            if options.ctc_classes < sides.vocabulary:
                raise ConfigError(f"adapter_options: text_residual: {options.text_residual}: of ctc_classes "
                                  f"{options.ctc_classes} some stand for several of the LLM's {sides.vocabulary} "
                                  f"tokens; set ctc_classes to {sides.vocabulary}")
            self.text = TextResidual(options.text_residual == "best", options.text_gate, options.acoustic_gate)
        self.options, self.count_by = options, options.count

    @property
    def reads(self) -> frozenset[str]:
        wanted = {"ids": self.options.scaling == "local", "embeddings": self.text is not None}
        return frozenset(name for name, is_read in wanted.items() if is_read)

    def forward(self, frames: Tensor, lengths: Tensor, n_tokens: Tensor | None = None, ids: Tensor | None = None,
                embeddings: Tensor | None = None) -> SpeechTokens:
        if self.stack:
            frames, lengths = self.stack(frames, lengths)
        heard = frames
        for layer in self.pre_cif_layers:
            frames = layer(frames, attention_mask=attention_mask(lengths, frames))  # [B, T, C]
        frames = self.pre_cif_norm(frames)
        # Out of autocast: CIF's sums, and with them the places of the fires, need float32.
        with torch.autocast(frames.device.type, enabled=False):
            alpha = self.to_alpha(frames.float()).squeeze(-1).sigmoid()  # [B, T]
        valid = torch.arange(frames.shape[1], device=frames.device) < lengths.to(
            frames.device, non_blocking=True)[:, None]
        alpha = alpha.masked_fill(~valid, 0)
        if self.options.ctc_frames == "pre_cif":
            heard = frames
        ctc_logits = self.counter(heard) if self.counter else None
        predicted = self._count(alpha.detach(), ctc_logits, lengths)
        if n_tokens is None:
            n_tokens = predicted.cpu()
        amounts = alpha
        if self.options.scaling == "local":
            amounts = cif.scale_locally(alpha, self._cuts(ctc_logits.detach(), lengths, n_tokens, ids))
        fired = cif.fire(self.to_frames(frames).float(), amounts, n_tokens)
        tokens = fired.tokens  # [B, N, C]
        for layer in self.post_cif_layers:
            tokens = layer(tokens, attention_mask=attention_mask(n_tokens, tokens))
        tokens = self.norm(self.to_llm(self.post_cif_norm(tokens)))  # [B, N, D]
        if self.text is not None:
            tokens = self.text(tokens, ctc_logits, amounts, n_tokens, embeddings)
        stacked = self.stack.number if self.stack else 1
        return SpeechTokens(tokens=tokens, n_tokens=n_tokens, n_predicted=predicted, alpha=alpha, stacked=stacked,
                            fire_times=fired.times * stacked, ctc_logits=ctc_logits, frame_lengths=lengths)

    def _cuts(self, ctc_logits: Tensor, lengths: Tensor, n_tokens: Tensor, ids: Tensor | None) -> Tensor:
        """Where each token's stretch of frames ends [B, N]; see `cuts_between`."""
        if ids is None:
            spans = align_count(ctc_logits, lengths, n_tokens)
        else:
            labels = token_classes(ids, self.options.ctc_classes).cpu().split(n_tokens.tolist())
            log_probs = ctc_logits.float().log_softmax(-1).cpu().numpy()
            spans = align(log_probs, lengths.numpy(), [row.numpy() for row in labels])
        cuts = cuts_between(spans, n_tokens.cpu().numpy(), lengths.numpy())
        return torch.from_numpy(cuts).to(ctc_logits.device)

    def count_as(self, how: str) -> None:
        self.count_by = from_dict(CFormer.Options, vars(self.options) | {"count": how}, "count").count

    def _count(self, alpha: Tensor, ctc_logits: Tensor | None, lengths: Tensor) -> Tensor:
        """Its own opinion on the number of tokens [B], int64."""
        if self.count_by == "alpha":
            return cif.count(alpha)
        if self.count_by == "ctc":
            return count_labels(ctc_logits, lengths)
        if self.count_by == "posterior":
            return likeliest_count(ctc_logits, lengths)
        if self.count_by == "posterior_alpha":
            return likeliest_count(ctc_logits, lengths, cif.total(alpha), self.options.count_spread)
        labels = count_labels(ctc_logits, lengths, SURE_BLANK)
        return ((cif.total(alpha) + labels) / 2).round().clamp(min=1).long()


class _FrameStack(nn.Module):
    """Makes one frame of every `number` neighbours: a linear layer that starts as their mean."""

    def __init__(self, width: int, number: int):
        super().__init__()
        self.number = number
        self.join = nn.Linear(number * width, width)
        with torch.no_grad():
            self.join.weight.copy_(torch.eye(width).repeat(1, number) / number)
        nn.init.zeros_(self.join.bias)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [B, T, C], zero on padding, and lengths [B] -> [B, ceil(T / number), C] and ceil(lengths / number)."""
        frames = nn.functional.pad(frames, (0, 0, 0, -frames.shape[1] % self.number))
        return self.join(frames.unflatten(1, (-1, self.number)).flatten(2)), (lengths - 1) // self.number + 1


def _layers(options: CFormer.Options, sides: Sides, number: int) -> nn.ModuleList:
    layer = WhisperConfig(d_model=sides.encoder_width, encoder_attention_heads=options.heads, dropout=options.dropout,
                          encoder_ffn_dim=options.ffn_dim, attn_implementation=sides.attn_implementation)
    return nn.ModuleList(WhisperEncoderLayer(layer) for _ in range(number))

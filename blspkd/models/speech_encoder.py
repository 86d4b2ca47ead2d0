"""Features -> frames [B, T, C], by a pretrained Hugging Face encoder, for audio of any length.

Whisper runs in one of two regimes: *padded* (its own: every window filled up to 30 s, nothing masked; equal to Hugging
Face's output bit for bit, then cut to the real length) or *trimmed* (features and positions cut to the batch's real
length, padding masked in attention; much less work on short utterances). wav2vec 2.0, HuBERT and WavLM encoders take
waveforms and mask padding themselves.
"""

import math

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from blspkd.data.pretrained import load_pretrained
from blspkd.data.prompts import check_model_path
from blspkd.errors import ConfigError, ModelError


class SpeechEncoder(nn.Module):
    """A pretrained encoder; `width` is C and `stride` the features (frames or samples) per output frame.

    Output frame t looks at the features around first_centre + t * stride.
    """

    def __init__(self, encoder: nn.Module, pad_to_30s: bool):
        super().__init__()
        self.encoder = encoder
        self.pad_to_30s = pad_to_30s
        self.is_whisper = hasattr(encoder, "embed_positions") and hasattr(encoder, "conv2")
        self.width: int = encoder.config.hidden_size
        self.stride: int = 2 if self.is_whisper else math.prod(encoder.config.conv_stride)
        self.first_centre: float = 0.0 if self.is_whisper else _first_centre(encoder.config)

    @classmethod
    def from_pretrained(cls, name: str, pad_to_30s: bool, attn_implementation: str, dtype: torch.dtype):
        """Load the encoder part of `name` (Hugging Face id or folder). Raises ModelError."""
        check_model_path(name, "speech encoder")
        try:
            config = load_pretrained(AutoConfig, name)
            model = load_pretrained(AutoModel, name, dtype=dtype, attn_implementation=attn_implementation)
        except (OSError, ValueError, SafetensorError) as error:
            raise ModelError(f"{name}: cannot be loaded as a speech encoder ({str(error).splitlines()[0]})") from None
        if config.model_type == "whisper":
            return cls(model.get_encoder(), pad_to_30s)
        if not hasattr(model, "_get_feat_extract_output_lengths"):
            raise ModelError(f"{name}: model type '{config.model_type}' is not a speech encoder that this toolkit "
                             "knows (Whisper, wav2vec 2.0, HuBERT, WavLM)")
        return cls(model, pad_to_30s)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames that come out for features of these lengths."""
        if self.is_whisper:
            return (lengths - 1) // 2 + 1
        return self.encoder._get_feat_extract_output_lengths(lengths)

    def seconds(self, place: float, rate: float) -> float:
        """Where the middle of what output frame `place` sees lies; 2.5: in the middle of the third frame.

        rate: features (frames or samples) per second.
        """
        return (self.first_centre + (place - 0.5) * self.stride) / rate

    def forward(self, features: Tensor, lengths: Tensor, windows: list[int]) -> tuple[Tensor, Tensor]:
        """features: [W, F, M] or [W, S]; lengths: [W] real frames (samples), on the CPU; windows: number per utterance.

        Returns frames [B, T, C], zero on padding, and their lengths [B], on the CPU.
        """
        out_lengths = self.output_lengths(lengths)
        if not self.is_whisper:
            frames = self._waveform_encoder(features, lengths)
        elif self.pad_to_30s:
            frames = self.encoder(features.transpose(1, 2).to(self.dtype)).last_hidden_state
        else:
            frames = self._trimmed_whisper(features, lengths)
        if len(windows) < len(features):
            frames, out_lengths = _join_windows(frames, out_lengths, windows)
        frames = frames[:, :int(out_lengths.max())]
        return frames.masked_fill(~_valid(out_lengths, frames.shape[1], frames.device)[..., None], 0), out_lengths

    @property
    def dtype(self) -> torch.dtype:
        return next(self.encoder.parameters()).dtype

    def _trimmed_whisper(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Whisper's encoder on [W, F, M] with positions and attention cut to the real lengths."""
        encoder = self.encoder
        hidden = F.gelu(encoder.conv1(features.transpose(1, 2).to(self.dtype)))
        # What the second convolution sees behind the end is zero, in a batch as alone.
        hidden = hidden.masked_fill(~_valid(lengths, hidden.shape[2], hidden.device)[:, None], 0)
        hidden = F.gelu(encoder.conv2(hidden)).transpose(1, 2)
        hidden = hidden + encoder.embed_positions.weight[:hidden.shape[1]]
        mask = attention_mask(self.output_lengths(lengths), hidden)
        for layer in encoder.layers:
            hidden = layer(hidden, attention_mask=mask)
        return encoder.layer_norm(hidden)

    def _waveform_encoder(self, samples: Tensor, lengths: Tensor) -> Tensor:
        samples = samples.to(self.dtype)
        if getattr(self.encoder.config, "feat_extract_norm", "") == "group":
            # Group norm takes its statistics over time, padding included: one by one, nothing depends on batch mates.
            rows = [self.encoder(row[None, :n]).last_hidden_state[0] for row, n in zip(samples, lengths.tolist(),
                                                                                      strict=True)]
            return nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = _valid(lengths, samples.shape[1], samples.device)
        return self.encoder(samples, attention_mask=mask.long()).last_hidden_state


def attention_mask(lengths: Tensor, hidden: Tensor) -> Tensor:
    """Additive mask [B, 1, L, L] for hidden [B, L, C]: the dtype's lowest number on keys past lengths[b]."""
    valid = _valid(lengths, hidden.shape[1], hidden.device)
    mask = torch.zeros(valid.shape, dtype=hidden.dtype, device=hidden.device)
    mask = mask.masked_fill(~valid, torch.finfo(hidden.dtype).min)
    return mask[:, None, None, :].expand(-1, 1, hidden.shape[1], -1)


def _valid(lengths: Tensor, size: int, device: torch.device) -> Tensor:
    """[B, size] bool: the first lengths[b] positions."""
    return torch.arange(size, device=device) < lengths.to(device, non_blocking=True)[:, None]


def _first_centre(config) -> float:
    """The sample in the middle of what the first output frame sees through unpadded convolutions."""
    strides = [math.prod(config.conv_stride[:i]) for i in range(len(config.conv_stride))]
    return sum((kernel - 1) * stride for kernel, stride in zip(config.conv_kernel, strides, strict=True)) / 2


def _join_windows(frames: Tensor, lengths: Tensor, windows: list[int]) -> tuple[Tensor, Tensor]:
    """Put the windows of each utterance behind one another: [W, T, C] -> [B, T', C]."""
    rows = iter(frame[:length] for frame, length in zip(frames, lengths.tolist(), strict=True))
    joined = [torch.cat([next(rows) for _ in range(n)]) for n in windows]
    return nn.utils.rnn.pad_sequence(joined, batch_first=True), torch.tensor([len(row) for row in joined])


def unfreeze(encoder: nn.Module, num_layers: int) -> None:
    """All of the encoder (-1) or its last `num_layers` layers; position tables stay as they are."""
    if num_layers < 0:
        encoder.requires_grad_(True)
        if hasattr(encoder, "embed_positions"):
            encoder.embed_positions.requires_grad_(False)
        return
    layers = encoder.layers if hasattr(encoder, "layers") else encoder.encoder.layers
    if num_layers > len(layers):
        raise ConfigError(f"train_encoder_layers: {num_layers}, but the encoder has {len(layers)} layers")
    for layer in layers[len(layers) - num_layers:]:
        layer.requires_grad_(True)

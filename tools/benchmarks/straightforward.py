"""A straightforward training step, with the structure of BLSP-KD's public code, on the weights of a SpeechLlm.

Prefix, input, suffix and response are each padded to the longest of the batch and then put together; teacher and
student both keep all layers' hidden states and give logits at all positions; LoRA is computed everywhere, in the
teacher too, and multiplied by a mask that every module holds; CIF walks over the frames and asks the device at each
whether to go on; attention is eager. The arithmetic is ours: position numbers skip padding and the adapter masks it
(the original does neither), so that the loss must equal KdObjective's with `response_positions: released` on any batch.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blspkd.config import LossConfig
from blspkd.data.batching import collate
from blspkd.data.examples import LoadedExample
from blspkd.losses.distillation import Divergence, distillation_loss
from blspkd.losses.quantity import quantity_loss
from blspkd.models import cif
from blspkd.models.plora import PLoraLinear
from blspkd.models.speech_llm import SpeechLlm

SEGMENTS = ("prefix", "input", "suffix", "response")
Timer = Callable[[str], AbstractContextManager]


@dataclass
class SegmentBatch:
    """What one step reads: P, N, S and R are the longest prefix, input, suffix and response."""

    features: Tensor  # [W, F, M]
    feature_lengths: Tensor
    windows: list[int]
    n_tokens: Tensor  # [B]
    ids: dict[str, Tensor]  # by segment, [B, P], [B, N], [B, S], [B, R]
    real: dict[str, Tensor]  # likewise, bool: no padding

    def mask(self, *segments: str) -> Tensor:
        """[B, P + N + S + R] bool: True at the real positions of `segments`."""
        return torch.cat([self.real[name] & (name in segments) for name in SEGMENTS], dim=1)


def collate_segments(loaded: list[LoadedExample], device: torch.device) -> SegmentBatch:
    """Pad every segment by itself."""
    batch = collate(loaded)
    ids, real = {}, {}
    for name in SEGMENTS:
        rows = [torch.from_numpy(getattr(item.example, name).astype(np.int64)) for item in loaded]
        ids[name] = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
        sizes = torch.tensor([len(row) for row in rows])
        real[name] = (torch.arange(ids[name].shape[1]) < sizes[:, None]).to(device)
    return SegmentBatch(batch.features.to(device), batch.feature_lengths, batch.windows, batch.n_tokens, ids, real)


class MaskedLora(PLoraLinear):
    """LoRA at every position, times a mask that is left on the module."""

    mask: Tensor | None = None  # [B, L]; None: the teacher, whose update is computed and multiplied by zero

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        """x: [B, L, C] -> [B, L, C']"""
        result = self.base_layer(x, *args, **kwargs)
        for adapter in self.active_adapters:
            a, b = self.lora_A[adapter], self.lora_B[adapter]
            update = b(a(self.lora_dropout[adapter](x.to(a.weight.dtype)))) * self.scaling[adapter]
            update = update * (0.0 if self.mask is None else self.mask[..., None])
            result = result + update.to(result.dtype)
        return result


class StraightforwardObjective(nn.Module):
    """KdObjective's job; its own modules, but the parameters of `model`."""

    def __init__(self, model: SpeechLlm, config: LossConfig, loop: bool = True, all_logits: bool = True,
                 attention: str = "eager"):
        """loop: CIF frame by frame; all_logits: KL from all positions' logits; False: our way, to see its gain."""
        super().__init__()
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self.model = copy.deepcopy(model, shared)
        self.config, self.loop, self.all_logits = config, loop, all_logits
        self.lora = [module for module in self.model.modules() if isinstance(module, PLoraLinear)]
        for module in self.lora:
            module.__class__ = MaskedLora
        for module in self.model.modules():
            if hasattr(getattr(module, "config", None), "_attn_implementation"):
                module.config._attn_implementation = attention

    def forward(self, batch: SegmentBatch, timer: Timer = nullcontext) -> Tensor:
        """The loss of one batch. `timer(part)` is entered around each part."""
        model, config = self.model, self.config
        with timer("encoder"), torch.no_grad():
            frames, frame_lengths = model.encoder(batch.features, batch.feature_lengths, batch.windows)
        with timer("adapter"), patch.object(cif, "fire", loop_fire if self.loop else cif.fire):
            speech = model.adapter(frames.to(model.adapter_dtype), frame_lengths, batch.n_tokens)
        with timer("student"):
            embed = model.causal_lm.get_input_embeddings()
            parts = [speech.tokens.to(embed.weight.dtype) if name == "input" else embed(batch.ids[name])
                     for name in SEGMENTS]
            student = self._llm(batch, batch.mask("input"), inputs_embeds=torch.cat(parts, dim=1))
        with timer("teacher"), torch.no_grad():
            teacher = self._llm(batch, None, input_ids=torch.cat([batch.ids[name] for name in SEGMENTS], dim=1))
        with timer("kd"):
            loss = quantity_loss(speech.alpha, batch.n_tokens).mean()
            for segment, weight in (("input", config.w_input), ("response", config.w_response)):
                loss = loss + weight * self._divergence(student, teacher, batch.mask(segment))
        return loss

    def _llm(self, batch: SegmentBatch, lora_mask: Tensor | None, **inputs):
        for module in self.lora:
            module.mask = lora_mask
        real = batch.mask(*SEGMENTS)
        positions = (real.long().cumsum(1) - 1).clamp(min=0)
        llm = self.model.causal_lm if self.all_logits else self.model.causal_lm.base_model
        return llm(attention_mask=real.long(), position_ids=positions, use_cache=False, output_hidden_states=True,
                   **inputs)

    def _divergence(self, student, teacher, mask: Tensor) -> Tensor:
        """Mean of KL(teacher || student) at the positions of `mask`."""
        if self.all_logits:
            log_q = F.log_softmax(student.logits[mask] / self.config.temperature, dim=-1)
            p = F.softmax(teacher.logits[mask] / self.config.temperature, dim=-1)
            return F.kl_div(log_q, p, reduction="none").sum(-1).mean()
        states = [output.last_hidden_state[mask] for output in (student, teacher)]
        weights = torch.full((len(states[0]),), 1 / len(states[0]), device=mask.device)
        divergence = Divergence(self.config.divergence, self.config.temperature)
        return distillation_loss(*states, self.model.head[0], weights, divergence).loss


def loop_fire(frames: Tensor, alpha: Tensor, n_tokens: Tensor, *_) -> cif.Fired:
    """`cif.fire`, one frame after the other: a column of weights [B, N] each, and one question to the device."""
    n_tokens = n_tokens.to(frames.device)
    tokens = torch.arange(int(n_tokens.max()), device=frames.device)
    scaled = alpha * (n_tokens / alpha.sum(1))[:, None]
    level, fired = scaled.new_zeros(len(scaled)), torch.zeros_like(n_tokens)
    columns = []
    for t in range(scaled.shape[1]):
        rest, column = scaled[:, t], scaled.new_zeros(len(scaled), len(tokens))
        while True:
            taken = torch.minimum(rest, 1 - level)
            # rounding can fire the last token a little early: what is left then is still its own
            column = column + (tokens == torch.minimum(fired, n_tokens - 1)[:, None]) * taken[:, None]
            rest, level = rest - taken, level + taken
            fires = level >= 1
            level, fired = torch.where(fires, 0, level), fired + fires
            if not (rest > 0).any().item():
                break
        columns.append(column)
    weights = torch.stack(columns, dim=2)  # [B, N, T]
    mask = tokens < n_tokens[:, None]
    return cif.Fired(tokens=weights @ frames.to(weights.dtype), mask=mask, times=mask.float())

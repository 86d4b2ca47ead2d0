"""The speech LLM: speech encoder + adapter + LLM (arXiv 2405.19041, section 3).

Shape legend, used everywhere: B utterances, F feature frames, T encoder frames, C encoder width, N speech tokens
(= transcript tokens in training), D LLM width, L LLM positions, V vocabulary, W encoder windows, M mel bins.

Teacher and student are one LLM in memory. The teacher reads text, with PLoRA off and without gradient; the student
reads speech tokens in the place of the transcript's tokens, with PLoRA on at those positions only.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Cache

from blspkd.config import ModelConfig, PromptConfig
from blspkd.data.batching import Batch, TokenBatch, lay_out
from blspkd.errors import ModelError
from blspkd.models import nearest
from blspkd.models.adapters import Sides, adapter_options, make_adapter
from blspkd.models.base_models import check_head, load_llm, pin
from blspkd.models.embedding_table import EmbeddingTable
from blspkd.models.kv_cache import cache_argument, no_cache
from blspkd.models.misfit import misfit
from blspkd.models.model_folder import SpeechLlmConfig, find_folder, locate_base_models, read_config
from blspkd.models.pieces import in_pieces
from blspkd.models.plora import add_plora, checkpoint_context, load_plora, save_plora, speech_positions
from blspkd.models.recount import recount
from blspkd.models.rescore import Rescorer
from blspkd.models.shared_prefix import SharedPrefix
from blspkd.models.speech_encoder import SpeechEncoder, unfreeze
from blspkd.models.speech_tokens import SpeechTokens
from blspkd.models.trained_folder import ADAPTER, ENCODER, PLORA, write_trained


class SpeechLlm(nn.Module):
    """An LLM that listens. Build it with `from_config` (new adapter) or `from_pretrained` (a trained one)."""

    def __init__(self, config: ModelConfig, prompt: PromptConfig, encoder: SpeechEncoder, llm: nn.Module,
                 said: Tensor | None = None):
        """said: [v] how often each token stands in the training's transcripts: their scale is the speech tokens'."""
        super().__init__()
        self.encoder = encoder
        self.llm = llm  # a causal LM, or the PeftModel around it, or of one that is never run the embedding table alone
        embeddings = llm.get_input_embeddings()
        self.embedding_rms = config.embedding_rms or _rms(embeddings, said)
        # with the defaults of today, so that a saved model does not change with them
        self.config = replace(config, adapter_options=asdict(adapter_options(config)),
                              embedding_rms=self.embedding_rms if said is not None else config.embedding_rms)
        self.prompt_config = prompt
        self.prefix, self.shares_prefix = SharedPrefix(), config.share_prefix
        self.turn: tuple[list[int], list[int]] = ([], [])  # what stands around a transcript; a Listener knows it
        self.most_positions = 0  # of a batch that the student runs at once, see models/pieces.py; 0: all
        self.is_text: Tensor | None = None  # [V] bool: where text has its embeddings; None: all
        self.adapter = make_adapter(config, Sides(
            encoder.width, embeddings.embedding_dim, self.embedding_rms, len(embeddings.weight),
            config.attn_implementation))
        encoder.requires_grad_(False)
        if config.train_encoder:
            unfreeze(encoder.encoder, config.train_encoder_layers)

    @classmethod
    def from_config(cls, config: ModelConfig, prompt: PromptConfig, said: Tensor | None = None,
                    with_llm: bool = True, device_map: Any = None,
                    spread: Callable[[Callable[[], nn.Module]], nn.Module] | None = None) -> "SpeechLlm":
        """Load the base models and put a new adapter between them. Raises ModelError.

        said: see `__init__`; with_llm: False loads of the LLM its embedding table only, for terms that never run it;
        device_map: see `load_llm`; spread: has the LLM made, and shared by several processes (training/sharding.py).
        """
        config = replace(config, llm=pin(config.llm, "LLM"),
                         speech_encoder=pin(config.speech_encoder, "speech encoder"))
        dtype = torch.float32 if config.train_encoder else getattr(torch, config.dtype)
        encoder = SpeechEncoder.from_pretrained(config.speech_encoder, config.pad_to_30s, config.attn_implementation,
                                                dtype)
        if not with_llm:
            return cls(config, prompt, encoder, EmbeddingTable.from_pretrained(config.llm, config.dtype), said)

        def build() -> nn.Module:
            llm = load_llm(config.llm, config.dtype, config.attn_implementation, device_map)
            return add_plora(llm, config.plora_rank, config.plora_alpha, config.plora_dropout, config.plora_targets,
                             everywhere=config.plora_positions == "all") if config.plora_rank else llm

        model = cls(config, prompt, encoder, build() if spread is None else spread(build), said)
        check_head(model.causal_lm, config.llm)
        return model

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: str = "", base_models: Mapping[str, str | Path] | None = None,
                        revision: str | None = None, device_map: Any = None) -> "SpeechLlm":
        """Put a trained model, a folder or an id on the hub, together again with its base models.

        dtype:       of what is frozen, else as in the training.
        base_models: {"llm": ..., "speech_encoder": ...}, folders or ids, where they are not at their recorded places.
        revision:    of an id: branch, tag or commit.
        """
        folder = find_folder(folder, revision)
        saved = read_config(folder)
        config = locate_base_models(folder, saved.model, base_models)
        model = cls.from_config(replace(config, dtype=dtype or config.dtype), saved.prompt, device_map=device_map)
        model.load_trained(folder)
        return model

    def load_trained(self, folder: str | Path) -> None:
        """Load the trained weights from a folder of `save_pretrained` into this model. Raises ModelError."""
        folder = Path(folder)
        try:
            self.adapter.load_state_dict(load_file(folder / ADAPTER))
            if self.config.train_encoder:
                trained = load_file(folder / ENCODER)
                unknown = self.encoder.load_state_dict(trained, strict=False).unexpected_keys
                if unknown:
                    raise ModelError(f"{folder}/{ENCODER}: not of this encoder: {unknown[0]}")
            if self.config.plora_rank:
                load_plora(self.llm, folder / PLORA)
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = misfit(error, self.config, self.encoder.width, self.llm.get_input_embeddings().embedding_dim)
            raise ModelError(f"{folder}: {reason}") from None

    def save_pretrained(self, folder: str | Path, further: Mapping[str, dict[str, Tensor]] = MappingProxyType({})
                        ) -> None:
        """Write what was trained, and only that, atomically. Raises ModelError where a tensor has no elements.

        further: more files of tensors to lay beside.
        """
        self.check_whole(further)
        trained = {name: value for name, value in self.encoder.named_parameters() if value.requires_grad}
        write_trained(folder, SpeechLlmConfig(self.config, self.prompt_config),
                      {ADAPTER: self.adapter.state_dict(), ENCODER: trained, **further},
                      partial(save_plora, self.llm) if self.config.plora_rank else None)

    def check_whole(self, further: Mapping[str, dict[str, Tensor]] = MappingProxyType({})) -> None:
        """Raises ModelError where a trained tensor has no elements: it would be lost in what is saved."""
        trained = itertools.chain(((name, value) for name, value in self.named_parameters() if value.requires_grad),
                                  *(tensors.items() for tensors in further.values()))
        empty = [name for name, value in trained if not value.numel()]
        if empty:
            raise ModelError(f"{empty[0]} has no elements ({len(empty)} tensors in all), so that nothing is saved: "
                             "DeepSpeed's ZeRO stage 3 splits them over the ranks, and its option "
                             "stage3_gather_16bit_weights_on_model_save does not reach them; in the file that "
                             'training.deepspeed names, set "stage": 2 in "zero_optimization"')

    @property
    def causal_lm(self) -> nn.Module:
        return self.llm.get_base_model() if self.config.plora_rank else self.llm

    @property
    def plain_lora(self) -> bool:
        return bool(self.config.plora_rank) and self.config.plora_positions == "all"

    @property
    def device(self) -> torch.device:
        return next(self.adapter.parameters()).device

    @property
    def embedding_table(self) -> Tensor:
        """What the LLM reads text tokens as [V, D]."""
        embeddings = self.causal_lm.get_input_embeddings()
        scale = float(getattr(embeddings, "embed_scale", 1.0))
        return embeddings.weight if scale == 1.0 else embeddings.weight * scale

    @property
    def head(self) -> tuple[Tensor, Tensor | None]:
        """Weight [V, D] and bias of the output head."""
        layer = self.causal_lm.get_output_embeddings()
        return layer.weight, getattr(layer, "bias", None)

    def enable_gradient_checkpointing(self) -> None:
        """Non-reentrant only: reentrant checkpointing would silently lose PLoRA's gradients."""
        self.causal_lm.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": checkpoint_context})
        if self.config.train_encoder:
            self.encoder.encoder.gradient_checkpointing_enable({"use_reentrant": False})

    def speech_tokens(self, features: Tensor, lengths: Tensor, windows: list[int],
                      n_tokens: Tensor | None = None, reach: int | None = None) -> SpeechTokens:
        """Listen: features [W, F, M] (lengths [W] and windows on the CPU) -> speech tokens [B, N, D].

        n_tokens [B] fixes their number (training); None lets the model decide. reach: see `adapt`.
        """
        return self.adapt(*self.encode(features, lengths, windows), n_tokens, reach)

    def encode(self, features: Tensor, lengths: Tensor, windows: list[int]) -> tuple[Tensor, Tensor]:
        """Features [W, F, M] -> frames [B, T, C] and their lengths [B], on the CPU."""
        with nullcontext() if self.config.train_encoder else torch.no_grad():
            return self.encoder(features, lengths, windows)

    def adapt(self, frames: Tensor, lengths: Tensor, n_tokens: Tensor | None = None, reach: int | None = None,
              ids: Tensor | None = None) -> SpeechTokens:
        """Frames [B, T, C] -> speech tokens [B, N, D]; reach: of a recount, else `model.recount`; ids: see `reads`."""
        further = {"ids": ids} if "ids" in self.adapter.reads else {}
        if "embeddings" in self.adapter.reads:
            further["embeddings"] = self.embedding_table.detach()
        adapter = partial(self.adapter, frames.to(self.adapter_dtype), lengths, **further)
        speech, reach = adapter(n_tokens), self.config.recount if reach is None else reach
        if n_tokens is not None or not reach:
            return speech
        rescore = Rescorer(self, speech, reach) if self.config.recount_by == "llm" else None
        return recount(adapter, speech, reach, self.nearest, rescore)

    @property
    def adapter_dtype(self) -> torch.dtype:
        return next(self.adapter.parameters()).dtype

    @torch.no_grad()
    def teacher_states(self, sequences: TokenBatch) -> Tensor:
        """The LLM reads text, without gradient or PLoRA: last hidden states [B, L, D], 0 on a shared prefix."""
        with self.llm.disable_adapter() if self.plain_lora else nullcontext():
            return self._states(self._shared_prefix(sequences, len(sequences.ids)), input_ids=sequences.ids)

    def student_states(self, sequences: TokenBatch, speech: SpeechTokens) -> Tensor:
        """The LLM reads speech at the input positions: [B, L, D] as the teacher's, with gradient, PLoRA on there."""
        embeddings, mask = self.embed(sequences, speech), sequences.input_mask

        def states(rows: slice) -> Tensor:
            past = self._shared_prefix(sequences, len(mask[rows]))
            with speech_positions(mask[rows]):
                return self._states(past, inputs_embeds=embeddings[rows])

        return in_pieces(states, *mask.shape, self.most_positions)

    def _shared_prefix(self, sequences: TokenBatch, rows: int) -> Cache | None:
        if not self.shares_prefix or self.plain_lora:  # which reads the prefix in its own way
            return None
        return self.prefix.expand(self.causal_lm, sequences.prefix, rows)

    def _states(self, past: Cache | None, **inputs: Tensor) -> Tensor:
        """Run the LLM behind what is in `past`; inputs: input_ids [B, L] or inputs_embeds [B, L, D]."""
        start = 0 if past is None else past.get_seq_length()
        inputs = {name: values[:, start:] for name, values in inputs.items()}
        backbone = self.causal_lm.base_model
        cache = no_cache(backbone) if past is None else past
        states = backbone(**inputs, **cache_argument(backbone, cache), use_cache=start > 0).last_hidden_state
        return nn.functional.pad(states, (0, 0, start, 0)) if start else states

    def student_sequences(self, batch: Batch, speech: SpeechTokens) -> TokenBatch:
        """The student's layout: the teacher's, unless the number of speech tokens is another one."""
        if torch.equal(speech.n_tokens, batch.n_tokens):
            return batch.sequences
        sequences = lay_out(batch.examples, speech.n_tokens.tolist())
        sequences.ids = sequences.ids.to(batch.sequences.ids.device)
        return sequences

    def embed(self, sequences: TokenBatch, speech: SpeechTokens) -> Tensor:
        """Embeddings [B, L, D] with speech tokens at the input positions."""
        embeddings = self.causal_lm.get_input_embeddings()(sequences.ids)
        rows = sequences.input_mask.reshape(-1).nonzero().squeeze(1)
        flat = embeddings.detach().flatten(0, 1)
        flat = flat.index_copy(0, rows.to(flat.device, non_blocking=True), self._snapped(speech.rows().to(flat.dtype)))
        return flat.view_as(embeddings)

    def _snapped(self, tokens: Tensor) -> Tensor:
        """Speech tokens [n, D] as `model.snap` has the LLM read them; gradients pass as if nothing had been drawn."""
        if self.config.snap == "none":
            return tokens
        as_they_are = tokens.detach()
        return self.snap(as_they_are, self.config.snap) + (tokens - as_they_are)

    def snap(self, tokens: Tensor, how: Literal["none", "hard", "soft"]) -> Tensor:
        """Speech tokens [n, D] as they are, replaced by the nearest text embeddings, or drawn to them (nearest.py)."""
        return nearest.snap(tokens, self.embedding_table, self.embedding_rms**2, how, self.is_text)

    def nearest(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The text tokens [n] whose embeddings are nearest to speech tokens [n, D], and how sure that is [n]."""
        return nearest.nearest(tokens, self.embedding_table, self.embedding_rms**2, self.is_text)

    def know_text(self, ids: Sequence[int]) -> None:
        """Choose among the embeddings of these tokens only, where one is to be the nearest."""
        self.is_text = torch.zeros(len(self.embedding_table), dtype=torch.bool)
        self.is_text[torch.tensor(ids)] = True

    def train(self, mode: bool = True) -> "SpeechLlm":
        """Frozen parts stay in evaluation mode (their dropout is zero in any case, see `load_llm`)."""
        super().train(mode)
        if not self.config.train_encoder:
            self.encoder.eval()
        return self


def _rms(embeddings: nn.Module, said: Tensor | None) -> float:
    """Root mean square of the embeddings of `said` (rows that hardly any text uses are often far louder), or of all."""
    squares = embeddings.weight.detach().float().pow(2).mean(1).double()  # [V]
    mean = squares.mean() if said is None else (squares[:len(said)] * said).sum() / said.sum()
    return float(mean.sqrt() * getattr(embeddings, "embed_scale", 1.0))

"""A trained model with the face of a transformers model: `from_pretrained`, `generate`, `forward`, `save_pretrained`.

What it does is `SpeechLLM`'s and `SpeechLlm`'s; here is only how transformers asks for it. `input_ids` hold one
position for each recording (`audio_token_id`), and the LLM reads as many speech tokens there as the adapter hears.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.utils import ModelOutput

from blspkd.errors import ConfigError, ContextError, ModelError
from blspkd.models.base_models import choose_device
from blspkd.models.chat import SpeechLLM
from blspkd.models.huggingface.config import BlspkdConfig, refuse_push
from blspkd.models.plora import speech_positions
from blspkd.models.reply import ChatOptions

# Arguments of transformers' `from_pretrained` that would change the model, and that this one does not know.
_UNKNOWN = ("attn_implementation", "quantization_config", "load_in_4bit", "load_in_8bit", "subfolder", "state_dict",
            "gguf_file", "variant")
_SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")  # ways of accelerate to use several devices


@dataclass
class SpeechOutput(ModelOutput):
    """Of `forward`. L' are the positions that the LLM reads: speech tokens count, and padding stands behind."""

    logits: Tensor | None = None  # [B, L', V]
    attention_mask: Tensor | None = None  # [B, L'] 0 on padding
    is_speech: Tensor | None = None  # [B, L'] bool: where PLoRA acts


@dataclass
class _Prompts:
    """What the LLM reads."""

    embeddings: Tensor  # [B, L', D]
    attention: Tensor  # [B, L']
    is_speech: Tensor  # [B, L'] bool, on the CPU


class BlspkdForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """An LLM that listens. Its arguments are what `BlspkdProcessor.apply_chat_template` returns."""

    config_class = BlspkdConfig
    main_input_name = "input_ids"
    input_modalities = ("audio", "text")

    def __init__(self, config: BlspkdConfig, speech_llm: SpeechLLM | None = None):
        """Raises ModelError without a trained model: there are no weights that a configuration alone could make."""
        if speech_llm is None:
            raise ModelError("a model of blspkd is made of base models and of what was trained between them; load one "
                             "by from_pretrained with its folder, or train one (stage 3 of a recipe)")
        super().__init__(config)
        config._attn_implementation = None  # which the line above has chosen for layers that there are none of
        self.speech_llm = speech_llm
        self.network = speech_llm.listener.model
        self.generation_config = copy.deepcopy(self.network.causal_lm.generation_config)
        if hasattr(self.network.causal_lm, "hf_device_map"):
            self.hf_device_map = self.network.causal_lm.hf_device_map  # pipelines leave such a model where it is
        self.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *, config: BlspkdConfig | None = None,
                        revision: str | None = None, dtype: str | torch.dtype | None = None, device_map: Any = None,
                        base_models: Mapping[str, str] | None = None, **further) -> "BlspkdForConditionalGeneration":
        """Load a trained model, a folder or an id on the hub, on the CPU unless `device_map` says otherwise.

        dtype:       of the frozen weights; None or "auto": as in the training.
        device_map:  "auto", a device, or whatever accelerate takes.
        base_models: see `SpeechLLM.from_pretrained`.
        Raises ModelError, and ConfigError for options of transformers that would be without effect here.
        """
        config = config or BlspkdConfig(name_or_path=str(pretrained_model_name_or_path))
        # where the Auto classes of some releases have put these two
        further.setdefault("attn_implementation", config._attn_implementation)
        dtype = config.dtype if dtype in (None, "auto") else dtype
        unknown = [name for name in _UNKNOWN if further.get(name)]
        if unknown:
            raise ConfigError(f"{', '.join(unknown)}: cannot be chosen for a model of blspkd; it is loaded as it was "
                              "trained (config.yaml)")
        name = str(pretrained_model_name_or_path)
        device, spread = _placed(device_map)
        speech_llm = SpeechLLM.from_pretrained(
            name, revision=None if Path(name).is_dir() else revision, device=device, device_map=spread,
            dtype=str(dtype or "").removeprefix("torch."), base_models=base_models)
        return cls(config, speech_llm)

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **_) -> None:
        """Write the trained weights, and which base models they belong to, into a folder that is made or replaced.

        See `SpeechLLM.save_pretrained`: base models are referred to, not copied.
        Raises ModelError for a folder with other files in it, and ConfigError for `push_to_hub`.
        """
        if push_to_hub:
            refuse_push()
        self.speech_llm.save_pretrained(save_directory)

    def push_to_hub(self, *_, **__) -> NoReturn:
        refuse_push()

    def to(self, *args, **kwargs) -> "BlspkdForConditionalGeneration":
        """Move the model. Raises ConfigError for another type of weights, which `from_pretrained` alone can give."""
        values = (*args, *kwargs.values())
        if any(isinstance(value, torch.dtype | Tensor) for value in values):  # a tensor stands for its type, too
            _refuse_cast()
        return super().to(*args, **kwargs)

    def half(self, *_) -> NoReturn:
        _refuse_cast()

    def bfloat16(self) -> NoReturn:
        _refuse_cast()

    def float(self, *_) -> NoReturn:
        _refuse_cast()

    def double(self) -> NoReturn:
        _refuse_cast()

    def type(self, dst_type: Any) -> NoReturn:
        _refuse_cast()

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.network.causal_lm.get_input_embeddings()

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.network.causal_lm.get_output_embeddings()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, input_features: Tensor | None = None,
                feature_lengths: Tensor | None = None, audio_windows: Tensor | None = None) -> SpeechOutput:
        """Logits at every position that the LLM reads; for the shapes see the processor. Raises ModelError."""
        speech = self._listen(input_features, feature_lengths, audio_windows)
        prompts = self._prompts(input_ids, attention_mask, speech, "right")
        with speech_positions(prompts.is_speech):
            output = self.network.causal_lm(inputs_embeds=prompts.embeddings, attention_mask=prompts.attention,
                                            use_cache=False)
        return SpeechOutput(output.logits, prompts.attention, prompts.is_speech.to(prompts.attention.device))

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, input_features: Tensor | None = None,
                 feature_lengths: Tensor | None = None, audio_windows: Tensor | None = None,
                 generation_config: GenerationConfig | None = None, tokenizer: Any = None, **options
                 ) -> Tensor | ModelOutput:
        """`generate` of the LLM behind what it reads and hears: [B, L + n], `input_ids` in front, as usual.

        Greedy, it writes what `SpeechLLM.chat` writes, but for rounding: chat reads what prompts share only once.
        Penalties for repetition and the like see the reply alone.
        tokenizer, options: of transformers' `generate`; `max_new_tokens` is `ChatOptions`' unless something is said.
        Raises ModelError, and ContextError for a prompt that fills the LLM's context.
        """
        prompts = self._prompts(input_ids, attention_mask,
                                self._listen(input_features, feature_lengths, audio_windows), "left")
        config = copy.deepcopy(generation_config or self.generation_config)
        options = config.update(**options)
        if config.max_length is None:
            wanted = ChatOptions().max_new_tokens if config.max_new_tokens is None else config.max_new_tokens
            config.max_new_tokens = min(wanted, self.speech_llm.context - prompts.attention.shape[1])
        if tokenizer is not None:
            options["tokenizer"] = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
        with speech_positions(prompts.is_speech):
            output = self.network.causal_lm.generate(inputs_embeds=prompts.embeddings, generation_config=config,
                                                     attention_mask=prompts.attention, **options)
        replies = output if isinstance(output, Tensor) else output.sequences  # [B * sequences of each, n]
        before = input_ids.to(replies.device).repeat_interleave(len(replies) // len(input_ids), dim=0)
        whole = torch.cat([before, replies], dim=1)
        if isinstance(output, Tensor):
            return whole
        output.sequences = whole
        return output

    def _listen(self, features: Tensor | None, lengths: Tensor | None, windows: Tensor | None) -> list[Tensor]:
        """Speech tokens [n, D] of each recording; for the shapes see the processor."""
        if features is None:
            return []
        if lengths is None or windows is None:
            raise ModelError("input_features came without feature_lengths and audio_windows; pass on all that the "
                             "processor returned")
        if not len(features) == len(lengths) == int(windows.sum()):
            raise ModelError(f"input_features have {len(features)} windows, of {int(windows.sum())}; pass on all that "
                             "the processor returned (a pipeline keeps one window of each conversation only, where "
                             "batch_size is above 1)")
        speech = self.network.speech_tokens(features.to(self.network.device), lengths.cpu(), windows.tolist())
        return [self.network.snap(tokens[:n], self.network.config.snap)
                for tokens, n in zip(speech.tokens, speech.n_tokens.tolist(), strict=True)]

    def _prompts(self, input_ids: Tensor, attention_mask: Tensor | None, speech: list[Tensor],
                 side: Literal["left", "right"]) -> _Prompts:
        """Embeddings of the prompts, with the speech tokens of the recordings in their places; padding at `side`."""
        input_ids = input_ids.to(self.network.device)
        is_audio = input_ids == self.config.audio_token_id  # [B, L]
        if int(is_audio.sum()) != len(speech):
            raise ModelError(f"input_ids have {int(is_audio.sum())} places for recordings, of which there are "
                             f"{len(speech)}; pass on all that the processor returned")
        is_real = torch.ones_like(is_audio) if attention_mask is None else attention_mask.to(input_ids.device) > 0
        embedded, heard = self.get_input_embeddings()(input_ids.masked_fill(is_audio, 0)), iter(speech)  # [B, L, D]
        rows, is_speech = [], []
        for row, real in enumerate(is_real):
            places = is_audio[row, real].nonzero().flatten().cpu()
            text, *others = embedded[row, real].tensor_split(places)  # the others begin with the place of a recording
            pieces = [text, *(piece for other in others for piece in (next(heard).to(text.dtype), other[1:]))]
            rows.append(torch.cat(pieces))
            is_speech.append(torch.cat([torch.full([len(piece)], number % 2 == 1)  # texts and recordings take turns
                                        for number, piece in enumerate(pieces)]))
        longest = max(map(len, rows))
        if longest >= self.speech_llm.context:
            raise ContextError(f"input_ids: {longest} tokens with those of speech, but the LLM reads "
                               f"{self.speech_llm.context} with its reply; shorten the conversation, or cut the "
                               "recording")
        are_real = [torch.ones(len(row), dtype=torch.int64, device=row.device) for row in rows]
        return _Prompts(*(pad_sequence(values, batch_first=True, padding_side=side)
                          for values in (rows, are_real, is_speech)))


def _refuse_cast() -> NoReturn:
    """What was trained stays float32 beside frozen weights of another type. Raises ConfigError."""
    raise ConfigError("the type of a loaded model's weights cannot be changed; load it by from_pretrained(..., "
                      "dtype=...), which changes that of the frozen weights alone")


def _placed(device_map: Any) -> tuple[str, Any]:
    """(device, device_map) for `SpeechLLM.from_pretrained`: what needs no accelerate is a device."""
    if isinstance(device_map, Mapping) and set(device_map) == {""}:
        device_map = device_map[""]
    if device_map is None:
        return "cpu", None
    if isinstance(device_map, int):
        return f"cuda:{device_map}", None
    if isinstance(device_map, str | torch.device) and str(device_map) not in _SPREAD:
        return str(device_map), None
    if device_map == "auto" and torch.cuda.device_count() < 2:
        return choose_device("auto"), None
    return "auto", device_map

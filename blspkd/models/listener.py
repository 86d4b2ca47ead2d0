"""A trained model at work: an instruction about something said, or typed, -> the LLM's reply.

    listener = Listener.from_pretrained("exp/train/model")
    listener.generate_from_speech([waveform], ["Translate the following text into German."])[0].text
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import (
    Cache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from blspkd.audio.waveform import as_waveform
from blspkd.config import PromptConfig
from blspkd.data.features import FeatureExtractor, pad_windows
from blspkd.data.prompts import Prompt, PromptIds, load_tokenizer
from blspkd.errors import ConfigError
from blspkd.models.base_models import load_llm
from blspkd.models.kv_cache import cache_argument, find_cache
from blspkd.models.past import Past
from blspkd.models.plora import speech_positions
from blspkd.models.shared_prefix import SharedPrefix
from blspkd.models.speech_llm import SpeechLlm


@dataclass
class GenerationOptions:
    """Passed on to Hugging Face's `generate`."""

    max_new_tokens: int = 64
    num_beams: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass
class Generated:
    """One reply."""

    text: str  # without special tokens
    token_ids: list[int]  # with the end-of-turn token, if it came
    n_tokens: int  # speech tokens, or transcript tokens, that stood in the prompt
    finished: bool  # the end-of-turn token came within max_new_tokens


@dataclass
class LlmInput:
    """What the LLM reads before it replies, in order: token ids, and speech tokens [n, D], where PLoRA acts."""

    pieces: list[list[int] | Tensor]

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    @property
    def speech_tokens(self) -> int:
        return sum(len(piece) for piece in self.pieces if isinstance(piece, Tensor))

    def behind(self, positions: int) -> "LlmInput":
        """Without the first `positions`, in as many pieces."""
        pieces = []
        for piece in self.pieces:
            pieces.append(piece[positions:])
            positions = max(0, positions - len(piece))
        return LlmInput(pieces)

    @property
    def beginning(self) -> list[int]:
        """The token ids in front of all speech."""
        return self.pieces[0] if self.pieces and not isinstance(self.pieces[0], Tensor) else []


class TextLlm(torch.nn.Module):
    """An LLM without ears: as much of a SpeechLlm as `Listener.generate_from_text` needs."""

    def __init__(self, causal_lm: torch.nn.Module, prompt_config: PromptConfig):
        super().__init__()
        self.causal_lm, self.prompt_config = causal_lm, prompt_config

    @property
    def device(self) -> torch.device:
        return self.causal_lm.device


class Listener:
    """Features, prompts and generation around one SpeechLlm."""

    def __init__(self, model: SpeechLlm | TextLlm, tokenizer: PreTrainedTokenizerBase,
                 extractor: FeatureExtractor | None):
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.extractor = extractor
        self.prompt = Prompt(tokenizer, model.prompt_config)
        self.prefix = SharedPrefix()
        if isinstance(model, SpeechLlm):
            model.know_text(self.prompt.text_ids(len(model.embedding_table)))
            model.turn = self.prompt.around()
        self.ends = self.prompt.ends_of_turn(model.causal_lm.generation_config)
        model.causal_lm.get_output_embeddings().register_forward_pre_hook(_contiguous)
        # Only what the options say: models bring defaults (repetition_penalty, top_k ...) that would interfere.
        model.causal_lm.generation_config = GenerationConfig(eos_token_id=self.ends, do_sample=False,
                                                             pad_token_id=self.prompt.end_of_turn)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu", dtype: str = "", *,
                        revision: str | None = None, device_map: Any = None,
                        base_models: Mapping[str, str | Path] | None = None) -> "Listener":
        """Load what stage 3 left in `exp/<tag>/model`, or an id of the hub; see `SpeechLlm.from_pretrained`.

        dtype: of the frozen weights, else as in the training; device_map: of the LLM, whose first device then has the
        speech encoder and the adapter, too. Raises ModelError.
        """
        model = SpeechLlm.from_pretrained(folder, dtype, base_models, revision, device_map)
        if device_map is None:
            model.to(device)
        else:
            first = model.causal_lm.get_input_embeddings().weight.device
            model.encoder.to(first)
            model.adapter.to(first)
        extractor = FeatureExtractor(model.config.speech_encoder, model.config.pad_to_30s)
        return cls(model, load_tokenizer(model.config.llm), extractor)

    @classmethod
    def from_llm(cls, name: str, prompt: PromptConfig, dtype: str = "float32",
                 device: str | torch.device = "cpu") -> "Listener":
        """The LLM `name` alone, which can only read: `generate_from_text` and `complete`. Raises ModelError."""
        tokenizer = load_tokenizer(name)
        return cls(TextLlm(load_llm(name, dtype), prompt).to(device), tokenizer, None)

    def decide_numbers(self, count: str = "model", recount_by: str = "model", recount_weight: float = -1.0) -> None:
        """How numbers of speech tokens come about from now on, where that is not as in the training.

        count: as the adapter's option of that name (model, transcript: unchanged; `listen` is told the latter);
        recount_by, recount_weight: as the model's options (model, -1: unchanged). Raises ConfigError.
        """
        if count not in ("model", "transcript"):
            self.model.adapter.count_as(count)
        changed = {} if recount_by == "model" else {"recount_by": recount_by}
        changed |= {"recount_weight": recount_weight} if recount_weight >= 0 else {}
        self.model.config = replace(self.model.config, **changed)

    @torch.inference_mode()
    def generate_from_speech(self, waveforms: list[np.ndarray | Tensor], instructions: list[str],
                             options: GenerationOptions | None = None,
                             sampling_rate: int | None = None) -> list[Generated]:
        """Reply to waveforms, one instruction each; see `listen`."""
        return self.reply(self.listen(waveforms, sampling_rate), instructions, options)

    @torch.inference_mode()
    def generate_from_text(self, transcripts: list[str], instructions: list[str],
                           options: GenerationOptions | None = None) -> list[Generated]:
        """The same with the transcripts typed in: what the LLM itself can do. A transcript may be empty."""
        prompts = []
        for transcript, instruction in zip(transcripts, instructions, strict=True):
            prefix, suffix = self.prompt.around(instruction)
            prompts.append(self.prompt.split(transcript, instruction) if transcript.strip()
                           else PromptIds(prefix, [], suffix))
        return self.complete(prompts, options)

    @torch.inference_mode()
    def complete(self, prompts: list[PromptIds], options: GenerationOptions | None = None,
                 sampler: LogitsProcessor | None = None) -> list[Generated]:
        """Generate behind tokenised turns; `sampler` chooses the tokens in the place of the options."""
        replies = self.generate([LlmInput([ids.prefix, ids.input + ids.suffix]) for ids in prompts], options, sampler)
        return [self._generated(reply, len(ids.input)) for reply, ids in zip(replies, prompts, strict=True)]

    @torch.inference_mode()
    def listen(self, waveforms: list[np.ndarray | Tensor], sampling_rate: int | None = None,
               snap: Literal["model", "none", "hard", "soft"] = "model", recount: int = -1,
               n_tokens: Sequence[int] | None = None) -> list[Tensor]:
        """Speech tokens [n, D] of each waveform; they can be used for any number of instructions.

        waveforms:     [samples] each, of one channel: floats within -1 and 1, int16, int32 or uint8.
        sampling_rate: of all of them, in Hz; None: `self.extractor.sampling_rate`. Another one is converted.
        snap:          whether tokens are drawn to text embeddings (nearest.py); model: as in its training.
        recount:       so many tokens more and fewer are tried (recount.py); -1: `model.recount`.
        n_tokens:      how many speech tokens each waveform becomes, where that is known; None: the model decides.
        Raises AudioError, with the waveform's number, for what cannot be used, and ConfigError for an adapter whose
        tokens stand for no text tokens.
        """
        if snap == "model":
            snap = self.model.config.snap
        if (snap != "none" or recount > 0 or n_tokens is not None) and not self.model.adapter.aligned:
            known = "" if n_tokens is None else ", count: transcript"
            raise ConfigError(f"snap: {snap}, recount: {recount}{known}: the tokens of adapter "
                              f"'{self.model.config.adapter}' stand for no text tokens; leave them at none and 0"
                              + (" and count at model" if known else ""))
        target = self.extractor.sampling_rate
        rate = target if sampling_rate is None else sampling_rate
        features = [self.extractor(as_waveform(waveform, rate, target, f"waveform {number} (counted from 0)"))
                    for number, waveform in enumerate(waveforms)]
        speech = self.model.speech_tokens(
            pad_windows([window for item in features for window in item.windows]).to(self.model.device),
            torch.tensor([length for item in features for length in item.lengths]),
            [len(item.windows) for item in features], None if n_tokens is None else torch.tensor(n_tokens),
            reach=None if recount < 0 else recount)
        tokens = [tokens[:n] for tokens, n in zip(speech.tokens, speech.n_tokens.tolist(), strict=True)]
        return [self.model.snap(of_one, snap) for of_one in tokens]

    @torch.inference_mode()
    def reply(self, speech: list[Tensor], instructions: list[str],
              options: GenerationOptions | None = None) -> list[Generated]:
        """Generate behind prefix + speech tokens + suffix."""
        inputs = []
        for tokens, instruction in zip(speech, instructions, strict=True):
            prefix, suffix = self.prompt.around(instruction)
            inputs.append(LlmInput([prefix, tokens, suffix]))
        replies = self.generate(inputs, options)
        return [self._generated(reply, len(tokens)) for reply, tokens in zip(replies, speech, strict=True)]

    @torch.inference_mode()
    def generate(self, inputs: list[LlmInput], options: GenerationOptions | None = None,
                 sampler: LogitsProcessor | None = None, watcher: StoppingCriteria | None = None,
                 past: Past | None = None) -> list[list[int]]:
        """Token ids of one reply to each input, as `generate` pads them behind their ends.

        watcher: is shown all tokens after every step and may end rows; past: of one input without beams: what the LLM
        has read before is not read again. What all inputs begin with is read once; padding stands behind it, or before
        inputs that share nothing.
        """
        options = options or GenerationOptions()
        cache, read = past.resume(self, inputs[0].pieces) if past is not None else (None, 0)
        if cache is None:
            cache, read = self._read_beginning(inputs, options.num_beams)
        unread = [item.behind(read) for item in inputs]
        rows = [self.embed(item.pieces) for item in unread]
        size = read + max(map(len, unread))
        embeddings = rows[0].new_zeros(len(rows), size, rows[0].shape[1])
        attention = torch.zeros(len(rows), size, dtype=torch.int64)
        attention[:, :read] = 1
        is_speech = torch.zeros(len(rows), size, dtype=torch.bool)
        for number, (item, row) in enumerate(zip(unread, rows, strict=True)):
            start = size - len(row)
            embeddings[number, start:] = row
            attention[number, start:] = 1
            speech = [isinstance(piece, Tensor) for piece in item.pieces for _ in range(len(piece))]
            is_speech[number, start:] = torch.tensor(speech, dtype=torch.bool)
        with speech_positions(is_speech):
            replies = self.model.causal_lm.generate(
                inputs_embeds=embeddings, attention_mask=attention.to(embeddings.device),
                logits_processor=LogitsProcessorList([sampler] if sampler else []),
                stopping_criteria=StoppingCriteriaList([watcher] if watcher else []),
                return_dict_in_generate=True, use_cache=True,
                **(cache_argument(self.model.causal_lm, cache) if cache else {}),
                **{name: value for name, value in asdict(options).items()
                   if options.do_sample or name not in ("temperature", "top_p")})
        ids = replies.sequences.tolist()
        if past is not None:
            past.keep(self, find_cache(replies.values()), inputs[0].pieces, ids[0])
        return ids

    def _read_beginning(self, inputs: list[LlmInput], beams: int) -> tuple[Cache | None, int]:
        """What all inputs begin with, and how many positions that is."""
        shared = os.path.commonprefix([item.beginning for item in inputs])
        if any(len(item) == len(shared) for item in inputs):
            shared = shared[:-1]  # something has to be left that the first token follows
        if getattr(self.model, "plain_lora", False):  # which reads the prefix in its own way
            return None, 0
        cache = self.prefix.expand(self.model.causal_lm, np.array(shared, dtype=np.int64), len(inputs) * beams,
                                   padded_behind=True)
        return cache, 0 if cache is None else len(shared)

    def embed(self, pieces: list[list[int] | Tensor]) -> Tensor:
        """What the LLM reads [n, D], in its own type."""
        embed = self.model.causal_lm.get_input_embeddings()
        dtype = embed.weight.dtype
        return torch.cat([piece.to(dtype) if isinstance(piece, Tensor) else
                          embed(torch.tensor(piece, dtype=torch.int64, device=self.model.device)) for piece in pieces])

    def _generated(self, ids: list[int], n_tokens: int) -> Generated:
        end = next((i for i, token in enumerate(ids) if token in self.ends), None)
        if end is not None:
            ids = ids[:end + 1]
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
        return Generated(text=text, token_ids=ids, n_tokens=n_tokens, finished=end is not None)


def _contiguous(layer: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The last positions of a prompt are a slice: as it is, bfloat16 on a CPU copies the output head for every row."""
    return tuple(values.contiguous() for values in inputs)

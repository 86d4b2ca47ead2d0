"""A trained model at work: an instruction about something said, or typed, -> the LLM's reply.

    listener = Listener.from_pretrained("exp/train/model")
    listener.generate_from_speech([waveform], ["Translate the following text into German."])[0].text
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase

from blspkd.audio.waveform import as_waveform
from blspkd.config import PromptConfig
from blspkd.data.features import FeatureExtractor, pad_windows
from blspkd.data.prompts import Prompt, PromptIds, load_tokenizer
from blspkd.errors import ConfigError
from blspkd.models.base_models import load_llm
from blspkd.models.kv_cache import cache_argument
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
class _Turn:
    """What the LLM goes on from."""

    prefix: list[int]  # token ids
    speech: Tensor  # [n, D] speech tokens behind them, where PLoRA acts
    suffix: list[int]  # token ids behind those


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
        shipped = model.causal_lm.generation_config.eos_token_id
        ends = {self.prompt.end_of_turn, tokenizer.eos_token_id, *(shipped if isinstance(shipped, list) else [shipped])}
        self.ends = sorted(ends - {None})
        model.causal_lm.get_output_embeddings().register_forward_pre_hook(_contiguous)
        # Only what the options say: models bring defaults (repetition_penalty, top_k ...) that would interfere.
        model.causal_lm.generation_config = GenerationConfig(eos_token_id=self.ends, do_sample=False,
                                                             pad_token_id=self.prompt.end_of_turn)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu", dtype: str = "") -> "Listener":
        """Load what stage 3 left in `exp/<tag>/model`; dtype: of the frozen weights, else as in the training.

        Raises ModelError.
        """
        model = SpeechLlm.from_pretrained(folder, dtype).to(device)
        extractor = FeatureExtractor(model.config.speech_encoder, model.config.pad_to_30s)
        return cls(model, load_tokenizer(model.config.llm), extractor)

    @classmethod
    def from_llm(cls, name: str, prompt: PromptConfig, dtype: str = "float32",
                 device: str | torch.device = "cpu") -> "Listener":
        """The LLM `name` alone, which can only read: `generate_from_text` and `complete`. Raises ModelError."""
        tokenizer = load_tokenizer(name)
        return cls(TextLlm(load_llm(name, dtype), prompt).to(device), tokenizer, None)

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
        nothing = torch.zeros(0, self.model.causal_lm.get_input_embeddings().embedding_dim, device=self.model.device)
        turns = [_Turn(ids.prefix, nothing, ids.input + ids.suffix) for ids in prompts]
        return self._generate(turns, [len(ids.input) for ids in prompts], options or GenerationOptions(), sampler)

    @torch.inference_mode()
    def listen(self, waveforms: list[np.ndarray | Tensor], sampling_rate: int | None = None,
               snap: Literal["model", "none", "hard", "soft"] = "model", recount: int = -1) -> list[Tensor]:
        """Speech tokens [n, D] of each waveform; they can be used for any number of instructions.

        waveforms:     [samples] each, of one channel: floats within -1 and 1, int16, int32 or uint8.
        sampling_rate: of all of them, in Hz; None: `self.extractor.sampling_rate`. Another one is converted.
        snap:          whether tokens are drawn to text embeddings (nearest.py); model: as in its training.
        recount:       so many tokens more and fewer are tried (recount.py); -1: `model.recount`.
        Raises AudioError, with the waveform's number, for what cannot be used, and ConfigError for an adapter whose
        tokens stand for no text tokens.
        """
        if snap == "model":
            snap = self.model.config.snap
        if (snap != "none" or recount > 0) and not self.model.adapter.aligned:
            raise ConfigError(f"snap: {snap}, recount: {recount}: the tokens of adapter '{self.model.config.adapter}' "
                              "stand for no text tokens; leave them at none and 0")
        target = self.extractor.sampling_rate
        rate = target if sampling_rate is None else sampling_rate
        features = [self.extractor(as_waveform(waveform, rate, target, f"waveform {number} (counted from 0)"))
                    for number, waveform in enumerate(waveforms)]
        speech = self.model.speech_tokens(
            pad_windows([window for item in features for window in item.windows]).to(self.model.device),
            torch.tensor([length for item in features for length in item.lengths]),
            [len(item.windows) for item in features], reach=None if recount < 0 else recount)
        tokens = [tokens[:n] for tokens, n in zip(speech.tokens, speech.n_tokens.tolist(), strict=True)]
        return [self.model.snap(of_one, snap) for of_one in tokens]

    @torch.inference_mode()
    def reply(self, speech: list[Tensor], instructions: list[str],
              options: GenerationOptions | None = None) -> list[Generated]:
        """Generate behind prefix + speech tokens + suffix."""
        turns = []
        for tokens, instruction in zip(speech, instructions, strict=True):
            prefix, suffix = self.prompt.around(instruction)
            turns.append(_Turn(prefix, tokens, suffix))
        return self._generate(turns, [len(tokens) for tokens in speech], options or GenerationOptions())

    def _generate(self, turns: list["_Turn"], counts: list[int], options: GenerationOptions,
                  sampler: LogitsProcessor | None = None) -> list[Generated]:
        """What all turns begin with is read once; padding stands behind it, or before turns that share nothing.

        counts: of tokens in the place of the input, to be passed on.
        """
        shared = os.path.commonprefix([turn.prefix for turn in turns])
        if any(len(turn.prefix) + len(turn.speech) + len(turn.suffix) == len(shared) for turn in turns):
            shared = shared[:-1]  # something has to be left that the first token follows
        cache = None
        if not getattr(self.model, "plain_lora", False):  # which reads the prefix in its own way
            cache = self.prefix.expand(self.model.causal_lm, np.array(shared, dtype=np.int64),
                                       len(turns) * options.num_beams, padded_behind=True)
        if cache is None:
            shared = []
        embed = self.model.causal_lm.get_input_embeddings()
        rows = []
        for turn in turns:
            before, after = (embed(torch.tensor(ids, dtype=torch.int64, device=self.model.device))
                             for ids in (turn.prefix[len(shared):], turn.suffix))
            rows.append(torch.cat([before, turn.speech.to(before.dtype), after]))
        size = len(shared) + max(map(len, rows))
        embeddings = rows[0].new_zeros(len(rows), size, rows[0].shape[1])
        attention = torch.zeros(len(rows), size, dtype=torch.int64)
        attention[:, :len(shared)] = 1
        is_speech = torch.zeros(len(rows), size, dtype=torch.bool)
        for number, (turn, row) in enumerate(zip(turns, rows, strict=True)):
            start = size - len(row)
            embeddings[number, start:] = row
            attention[number, start:] = 1
            end = size - len(turn.suffix)
            is_speech[number, end - len(turn.speech):end] = True
        with speech_positions(is_speech):
            replies = self.model.causal_lm.generate(
                inputs_embeds=embeddings, attention_mask=attention.to(embeddings.device),
                logits_processor=LogitsProcessorList([sampler] if sampler else []),
                **(cache_argument(self.model.causal_lm, cache) if cache else {}),
                **{name: value for name, value in asdict(options).items()
                   if options.do_sample or name not in ("temperature", "top_p")})
        return [self._generated(ids, n) for ids, n in zip(replies.tolist(), counts, strict=True)]

    def _generated(self, ids: list[int], n_tokens: int) -> Generated:
        end = next((i for i, token in enumerate(ids) if token in self.ends), None)
        if end is not None:
            ids = ids[:end + 1]
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
        return Generated(text=text, token_ids=ids, n_tokens=n_tokens, finished=end is not None)


def _contiguous(layer: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The last positions of a prompt are a slice: as it is, bfloat16 on a CPU copies the output head for every row."""
    return tuple(values.contiguous() for values in inputs)

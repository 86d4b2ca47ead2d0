"""The LLM continues transcripts under the configured prompt (arXiv 2405.19041, section 3.1), in batches.

The Hugging Face back end: any causal LM that `AutoModelForCausalLM` loads and `generate` runs. Prompts are padded on
the left, so that the continuations of a batch start at the same position.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import tokenizers
import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessorList, PreTrainedModel

import blspkd
from blspkd.config import ContinuationConfig
from blspkd.data.pretrained import load_pretrained
from blspkd.data.prompts import Prompt, check_model_path, load_tokenizer
from blspkd.errors import ConfigError, DataError, ModelError
from blspkd.generation import filters
from blspkd.generation.sampling import UtteranceSampler, uniform_stream


@dataclass(frozen=True)
class Continuation:
    """What the LLM wrote behind one transcript."""

    text: str  # without special tokens
    n_tokens: int  # written tokens, the end of the turn not counted
    finished: bool  # the LLM ended its turn within max_new_tokens
    reason: str | None = None  # why it is dropped (blspkd.generation.filters); None: it is kept


def load_llm(name: str, dtype: str = "float32", device: str = "cpu") -> PreTrainedModel:
    """Load the causal LM `name` (Hugging Face id or folder) for inference; ModelError where that fails."""
    check_model_path(name, "LLM")
    try:
        model = load_pretrained(AutoModelForCausalLM, name, dtype=getattr(torch, dtype))
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{name}: this LLM cannot be loaded ({reason}); name a folder with a saved causal LM, or a "
                         "Hugging Face id that is in the local cache or can be downloaded") from None
    return model.eval().requires_grad_(False).to(device)


def choose_device(job: int = 1) -> str:
    """The GPU of this job (jobs take turns over the GPUs that are visible), or the CPU where there is none."""
    return f"cuda:{(job - 1) % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"


def library_versions() -> dict[str, str]:
    """What wrote the continuations, for the record."""
    return {"blspkd": blspkd.__version__, "torch": torch.__version__, "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__}


class ContinuationWriter:
    """An LLM, its tokenizer and the prompt, ready to continue transcripts."""

    def __init__(self, llm: str, config: ContinuationConfig, device: str = "cpu"):
        """Load the tokenizer and the model `llm`. Raises ModelError, and ConfigError for a prompt that cannot fit."""
        self.config = config
        self.tokenizer = load_tokenizer(llm)
        self.prompt = Prompt(self.tokenizer, config.prompt)
        self.model = load_llm(llm, config.dtype, device)
        self.end_tokens = self._end_tokens()
        pad = self.tokenizer.pad_token_id
        self.pad_token = self.prompt.end_of_turn if pad is None else pad
        # Only what the configuration says: models bring defaults (top_k, repetition_penalty ...) that would interfere.
        self.model.generation_config = GenerationConfig(
            eos_token_id=self.end_tokens, pad_token_id=self.pad_token, do_sample=False)
        self._special_ids = self.prompt.control_ids.union(self.tokenizer.all_special_ids)
        self.max_input_tokens = self._max_input_tokens()

    def write(self, transcripts: Mapping[str, str], batches: slice = slice(None),
              done: Collection[str] = ()) -> Iterator[dict[str, Continuation]]:
        """Continue `transcripts` (utterance id -> text); yields one batch after the other, longest prompts first.

        batches: only these of them. done: utterances that are there; a batch of nothing else is left out.
        Raises DataError, naming the utterance, for a transcript that cannot be tokenised.
        """
        prompts: dict[str, list[int]] = {}
        too_long: dict[str, Continuation] = {}
        for utt_id, transcript in transcripts.items():
            try:
                ids = self.prompt.split(transcript)
            except ConfigError as error:
                raise DataError(f"utterance {utt_id}: {error}; correct its line in `text` or remove it") from None
            if len(ids.input) > self.max_input_tokens:
                too_long[utt_id] = Continuation("", 0, False, filters.INPUT_TOO_LONG)
            else:
                prompts[utt_id] = ids.prefix + ids.input + ids.suffix
        order = sorted(prompts, key=lambda utt_id: (-len(prompts[utt_id]), utt_id.encode()))
        for start in range(0, max(1, len(order)), self.config.batch_size)[batches]:
            utt_ids = order[start:start + self.config.batch_size]
            skipped = too_long if start == 0 else {}
            if all(utt_id in done for utt_id in [*utt_ids, *skipped]):
                continue
            written = self._generate(utt_ids, [prompts[utt_id] for utt_id in utt_ids]) if utt_ids else []
            yield {**skipped, **{utt_id: self._finish(ids) for utt_id, ids in zip(utt_ids, written, strict=True)}}

    @torch.inference_mode()
    def _generate(self, utt_ids: list[str], prompts: list[list[int]]) -> list[list[int]]:
        """Token ids that the LLM writes behind each prompt, the end-of-turn token included where there is one."""
        config = self.config
        length = max(map(len, prompts))
        # input_ids, attention_mask: [B, L], padded on the left
        input_ids = torch.full((len(prompts), length), self.pad_token)
        attention_mask = torch.zeros_like(input_ids)
        for row, ids in enumerate(prompts):
            input_ids[row, length - len(ids):] = torch.tensor(ids)
            attention_mask[row, length - len(ids):] = 1
        device = self.model.device
        choose = LogitsProcessorList()
        if config.do_sample:
            uniforms = np.stack([uniform_stream(config.seed, utt_id, config.max_new_tokens) for utt_id in utt_ids])
            choose.append(UtteranceSampler(uniforms, length, config.temperature, config.top_p, device))
        output = self.model.generate(
            input_ids=input_ids.to(device), attention_mask=attention_mask.to(device),
            max_new_tokens=config.max_new_tokens, logits_processor=choose)
        return [self._cut(row) for row in output[:, length:].tolist()]

    def _cut(self, ids: list[int]) -> list[int]:
        """`ids` up to and including the first end token."""
        for position, token in enumerate(ids):
            if token in self.end_tokens:
                return ids[:position + 1]
        return ids

    def _finish(self, ids: list[int]) -> Continuation:
        """Token ids as generated -> text and verdict."""
        finished = bool(ids) and ids[-1] in self.end_tokens
        ids = ids[:-1] if finished else ids
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        reason = filters.reject(ids, text, finished, self._special_ids, self.config.min_tokens,
                                self.config.drop_unfinished)
        return Continuation(text, len(ids), finished, reason)

    def _end_tokens(self) -> list[int]:
        """The end of the turn, and whatever else this model and its tokenizer stop at."""
        configured = self.model.generation_config.eos_token_id
        configured = configured if isinstance(configured, list) else [configured]
        found = {self.prompt.end_of_turn, self.tokenizer.eos_token_id, *configured}
        return sorted(token for token in found if token is not None)

    def _max_input_tokens(self) -> int:
        """Longest transcript, in tokens, whose prompt and continuation fit the LLM's context."""
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if not isinstance(context, int):
            return self.config.max_input_tokens
        prefix, suffix = self.prompt.around()
        room = context - len(prefix) - len(suffix) - self.config.max_new_tokens
        if room < 1:
            raise ConfigError(f"max_new_tokens: no transcript fits this LLM's context of {context} tokens beside "
                              f"{self.config.max_new_tokens} new ones and {len(prefix) + len(suffix)} of the prompt")
        return min(self.config.max_input_tokens, room)

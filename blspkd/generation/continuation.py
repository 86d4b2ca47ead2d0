"""The LLM continues transcripts under the configured prompt (arXiv 2405.19041, section 3.1), in batches."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import tokenizers
import torch
import transformers

import blspkd
from blspkd.config import ContinuationConfig
from blspkd.data.prompts import PromptIds
from blspkd.errors import ConfigError, DataError
from blspkd.generation import filters
from blspkd.generation.engines import make_engine
from blspkd.generation.engines.engine import Engine, Request
from blspkd.generation.text_side import TextSide
from blspkd.kaldi.parts import plan_batches
from blspkd.models.sampling import utterance_seed

MERGED = 16  # tokens around a transcript may be a few more than around another one


@dataclass(frozen=True)
class Continuation:
    """What the LLM wrote behind one transcript."""

    text: str  # without special tokens
    n_tokens: int  # written tokens, the end of the turn not counted
    finished: bool  # the LLM ended its turn within max_new_tokens
    reason: str | None = None  # why it is dropped (blspkd.generation.filters); None: it is kept


def library_versions() -> dict[str, str]:
    """What wrote the continuations, for the record."""
    return {"blspkd": blspkd.__version__, "torch": torch.__version__, "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__}


class ContinuationWriter:
    """An LLM under the configured prompt, ready to continue transcripts."""

    def __init__(self, llm: str, config: ContinuationConfig, device: str = "cpu", job: int = 1,
                 engine: Engine | None = None):
        """Load the LLM `llm` into `engine`, or into the one that `config` names.

        Raises ModelError, and ConfigError for a prompt that cannot fit and for what the engine cannot do.
        """
        self.config = config
        self.engine = engine or make_engine(config)
        self.text = TextSide.of(llm, config.prompt)
        self._special_ids = self.text.prompt.control_ids.union(self.text.tokenizer.all_special_ids)
        self.max_input_tokens = self._max_input_tokens()
        loaded = self.engine.load(self.text, self._positions(), device, job)
        self.versions = {**library_versions(), **loaded}

    def plan(self, transcripts: Mapping[str, str]) -> list[list[str]]:
        """Batches of utterance ids, longest prompts first; transcripts that are too long come with the first batch.

        transcripts: utterance id -> text. Raises DataError, naming the utterance, for what cannot be tokenised.
        """
        prompts = self._prompts(transcripts)
        too_long = [utt_id for utt_id, ids in prompts.items() if self._is_too_long(ids)]
        lengths = {utt_id: len(ids.prefix) + len(ids.input) + len(ids.suffix) for utt_id, ids in prompts.items()
                   if not self._is_too_long(ids)}
        batches = plan_batches(lengths, self.config.batch_size)
        return [too_long + batch for batch in batches[:1] or [[]]] + batches[1:]

    def write(self, transcripts: Mapping[str, str]) -> dict[str, Continuation]:
        """Continue one batch of `transcripts`, utterance id -> text. Raises DataError as `plan` does."""
        prompts = self._prompts(transcripts)
        written = {utt_id: Continuation("", 0, False, filters.INPUT_TOO_LONG) for utt_id, ids in prompts.items()
                   if self._is_too_long(ids)}
        fitting = {utt_id: ids for utt_id, ids in prompts.items() if utt_id not in written}
        return written | (dict(self._generate(fitting)) if fitting else {})

    def rows(self, transcripts: Mapping[str, str], batch: list[str]) -> list[dict]:
        """The lines of the part files for a batch of `plan(transcripts)`."""
        written = self.write({utt_id: transcripts[utt_id] for utt_id in batch})
        return [{"utt_id": utt_id, **asdict(continuation)} for utt_id, continuation in written.items()]

    def _generate(self, prompts: dict[str, PromptIds]) -> Iterator[tuple[str, Continuation]]:
        requests = [Request(utt_id, ids.prefix, ids.input + ids.suffix, utterance_seed(self.config.seed, utt_id))
                    for utt_id, ids in prompts.items()]
        return ((request.utt_id, self._finish(written.ids, written.finish_reason == "stop"))
                for request, written in zip(requests, self.engine.write(requests), strict=True))

    def _finish(self, ids: list[int], finished: bool) -> Continuation:
        """Token ids, without the end of the turn -> text and verdict."""
        text = self.text.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        reason = filters.reject(ids, text, finished, self._special_ids, self.config.min_tokens,
                                self.config.drop_unfinished)
        return Continuation(text, len(ids), finished, reason)

    def _prompts(self, transcripts: Mapping[str, str]) -> dict[str, PromptIds]:
        prompts = {}
        for utt_id, transcript in transcripts.items():
            try:
                prompt = self.text.prompt
                prompts[utt_id] = prompt.split(transcript, prompt.instruction_of(utt_id))
            except ConfigError as error:
                raise DataError(f"utterance {utt_id}: {error}; correct its line in `text` or remove it") from None
        return prompts

    def _is_too_long(self, ids: PromptIds) -> bool:
        return len(ids.input) > self.max_input_tokens

    def _max_input_tokens(self) -> int:
        """Longest transcript, in tokens, whose prompt and continuation fit the LLM's context."""
        config, context, around = self.config, self.text.context, self._longest_around()
        if context is None:
            return config.max_input_tokens
        room = context - around - config.max_new_tokens
        if room < 1:
            raise ConfigError(f"max_new_tokens: no transcript fits this LLM's context of {context} tokens beside "
                              f"{config.max_new_tokens} new ones and {around} of the prompt")
        return min(config.max_input_tokens, room)

    def _longest_around(self) -> int:
        """Tokens of the prompt around the transcript, with the longest instruction."""
        prompt = self.text.prompt
        return max(sum(map(len, prompt.around(instruction))) for instruction in prompt.config.instructions or [None])

    def _positions(self) -> int:
        """That the longest prompt and its continuation need."""
        needed = self._longest_around() + MERGED + self.max_input_tokens + self.config.max_new_tokens
        return needed if self.text.context is None else min(needed, self.text.context)

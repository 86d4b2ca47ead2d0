"""Replies in the making: one batch, each row with options of its own, its text told as it comes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from blspkd.errors import ConfigError
from blspkd.models.sampling import RowSampler, uniform_stream
from blspkd.models.text_pieces import TextPieces

SMALLEST = 1e-4  # temperature; the logits divided by less leave the range of float32


@dataclass(frozen=True)
class ChatOptions:
    """How a reply is written. Raises ConfigError for a value out of range."""

    max_new_tokens: int = 256
    temperature: float = 0.0  # 0: always the most probable token
    top_p: float = 1.0
    seed: int | None = None  # with a temperature: the same seed, the same reply; None: another one every time
    stop: tuple[str, ...] = ()  # texts that end the reply where they begin

    def __post_init__(self):
        stop = (self.stop,) if isinstance(self.stop, str) else () if self.stop is None else self.stop
        if not isinstance(stop, list | tuple) or not all(isinstance(text, str) for text in stop):
            raise ConfigError(f"stop: {self.stop!r} is no text or list of texts")
        object.__setattr__(self, "stop", tuple(stop))
        if not _is_number(self.max_new_tokens, int) or self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens: {self.max_new_tokens!r} is not a whole number of at least 1")
        if not _is_number(self.temperature, int | float) or not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature: {self.temperature!r} is not a number of at least 0")
        if not _is_number(self.top_p, int | float) or not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p: {self.top_p!r} is not a number above 0 and at most 1")
        if self.seed is not None and not _is_number(self.seed, int):
            raise ConfigError(f"seed: {self.seed!r} is not a whole number")

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn; below SMALLEST the most probable one has all of the probability."""
        return self.temperature >= SMALLEST


@dataclass
class Reply:
    """What the LLM answered."""

    text: str
    token_ids: list[int]  # with the end-of-turn token, if it came
    finish_reason: Literal["stop", "length", "cancelled"]
    prompt_tokens: int  # speech tokens included
    speech_tokens: int

    @property
    def completion_tokens(self) -> int:
        return len(self.token_ids)


class Writer:
    """One reply in the making."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: ChatOptions, context: int, prompt_tokens: int,
                 speech_tokens: int):
        """context: positions that the LLM has for prompt and reply together."""
        self.options = replace(options, max_new_tokens=min(options.max_new_tokens, context - prompt_tokens))
        self.prompt_tokens, self.speech_tokens = prompt_tokens, speech_tokens
        self.pieces = TextPieces(tokenizer, options.stop)
        self.ids: list[int] = []
        self.finish_reason = ""  # once it is complete

    @property
    def reply(self) -> Reply:
        return Reply(self.pieces.text, self.ids, self.finish_reason, self.prompt_tokens, self.speech_tokens)


class Watcher(StoppingCriteria):
    """After every step: hands each row's new token to its writer, and says which rows are complete."""

    def __init__(self, writers: list[Writer], ends: list[int], on_text: Callable[[int, str], None] | None = None,
                 cancelled: Callable[[int], bool] | None = None, on_reply: Callable[[int, Reply], None] | None = None):
        """See `SpeechLLM.generate`."""
        self.writers, self.ends = writers, set(ends)
        self.on_text = on_text or (lambda row, text: None)
        self.cancelled = cancelled or (lambda row: False)
        self.on_reply = on_reply or (lambda row, reply: None)

        self.rows = list(range(len(writers)))  # of those, in the batch

    def of(self, rows: list[int]) -> "Watcher":
        """For a batch of these rows."""
        self.rows = rows
        return self

    def __call__(self, input_ids: Tensor, scores: Tensor, **_) -> Tensor:
        """input_ids: [B, written so far]; returns [B] bool."""
        for row, token in zip(self.rows, input_ids[:, -1].tolist(), strict=True):
            self.add(row, token)
        return torch.tensor([bool(self.writers[row].finish_reason) for row in self.rows], device=input_ids.device)

    def add(self, row: int, token: int) -> None:
        """The next token of a row, which does nothing where that is complete."""
        writer = self.writers[row]
        if writer.finish_reason:
            return
        writer.ids.append(token)
        text = "" if token in self.ends else writer.pieces.add(token)
        if self.cancelled(row):
            self.end(row, "cancelled", text)
        elif token in self.ends or writer.pieces.stopped:
            self.end(row, "stop", text)
        elif len(writer.ids) >= writer.options.max_new_tokens:
            self.end(row, "length", text)
        elif text:
            self.on_text(row, text)

    def end(self, row: int, reason: str, text: str = "") -> None:
        """A row is complete; text: of it, and not yet told."""
        writer = self.writers[row]
        text += writer.pieces.finish()
        writer.finish_reason = "stop" if writer.pieces.stopped and reason == "length" else reason
        if text:
            self.on_text(row, text)
        self.on_reply(row, writer.reply)


def make_sampler(options: Sequence[ChatOptions]) -> RowSampler | None:
    """What chooses the tokens of rows with a temperature; None where there is none."""
    if not any(chosen.draws for chosen in options):
        return None
    uniforms = [None if not chosen.draws else
                np.random.default_rng().random(chosen.max_new_tokens) if chosen.seed is None else
                uniform_stream(chosen.seed, "", chosen.max_new_tokens) for chosen in options]
    return RowSampler(uniforms, [chosen.temperature for chosen in options], [chosen.top_p for chosen in options])


def _is_number(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)

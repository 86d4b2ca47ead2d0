"""The interface of what runs the LLM: prompts as token ids in, token ids and the reason why they end out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from blspkd.config import ContinuationConfig
from blspkd.errors import ConfigError

if TYPE_CHECKING:  # which waits for transformers
    from blspkd.generation.text_side import TextSide

LEAST_TEMPERATURE = 0.01  # vLLM takes this in the place of a smaller one


@dataclass(frozen=True)
class Request:
    """One prompt, and what its random numbers come from."""

    utt_id: str
    prefix: list[int]  # token ids that many prompts begin with
    rest: list[int]
    seed: int  # 128 bits, of this utterance alone

    @property
    def ids(self) -> list[int]:
        return self.prefix + self.rest


@dataclass(frozen=True)
class Written:
    """What the LLM wrote behind a prompt."""

    ids: list[int]  # token ids, without the one that ended the turn
    finish_reason: Literal["stop", "length"]  # the LLM ended its turn; max_new_tokens did

    @classmethod
    def until_end(cls, ids: list[int], ends: Sequence[int], stopped: bool = False) -> "Written":
        """Tokens up to the first that ends the turn; stopped: it was ended, also where no such token is among them."""
        end = next((place for place, token in enumerate(ids) if token in ends), None)
        return cls(ids[:end], "stop" if stopped or end is not None else "length")


class Engine(ABC):
    """Runs an LLM; made from its options, and loaded later."""

    name: ClassVar[str]

    @dataclass
    class Options:
        """None."""

    def __init__(self, options: Any, config: ContinuationConfig):
        """Raises ConfigError for what this engine cannot do; loads nothing."""
        self.options, self.config = options, config

    def recorded(self, options: dict, llm: str) -> dict:
        """Stage 2's options as they are kept beside the continuations: with this engine, by name and version.

        They are part of the fingerprint. llm: the LLM's name. Raises ConfigError or ModelError where the engine is not
        there to be asked.
        """
        kept = {key: value for key, value in options.items() if key != "engine_options"}
        return kept | {"engine": {"name": self.name, **self.identity(llm)}}

    @abstractmethod
    def identity(self, llm: str) -> dict[str, str]:
        """What tells this engine from others that write otherwise: its version, and what a server says of itself."""

    @abstractmethod
    def load(self, text: "TextSide", positions: int, device: str, job: int) -> dict[str, str]:
        """Get the LLM ready for prompts and continuations of `positions` together; returns versions, for the record.

        device: of this job, by torch's name; job: its number, from 1. Raises ModelError where that fails.
        """

    @abstractmethod
    def write(self, requests: Sequence[Request]) -> list[Written]:
        """Continue a batch of prompts. Raises ModelError where the engine fails."""


def check_temperature(config: ContinuationConfig, name: str) -> None:
    """Raises ConfigError for a temperature that `name` would silently replace."""
    if config.do_sample and config.temperature < LEAST_TEMPERATURE:
        raise ConfigError(f"temperature: engine {name} samples with no less than {LEAST_TEMPERATURE}, not with "
                          f"{config.temperature:g}; set do_sample: false")

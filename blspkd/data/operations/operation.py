"""What every data operation is: a class with options that takes examples and gives those to train on."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blspkd.errors import ConfigError
from blspkd.kaldi.data_dir import KaldiDir

if TYPE_CHECKING:  # both import torch, and configurations are checked without
    from blspkd.data.examples import Example
    from blspkd.data.prompts import Prompt

Report = dict[str, list[str]]  # reason -> ids of the utterances that it changed something for


class Operation(ABC):
    """Leaves out, repeats, reorders or marks the examples of a training set, or changes what they are asked.

    What it has to know of an utterance stands in tables `utt2<what>` of the data directory (`read_table(data.path /
    "utt2quality")`): subset, combine, split and fix carry them along. The same examples, directory and random numbers
    must give the same result: every rank of a training, and every run that resumes, applies it anew.
    """

    @dataclass(frozen=True)
    class Options:
        """The keys that an entry of `data.operations` may have besides `name`."""

    def __init__(self, options: Options, prompt: "Prompt | None" = None):
        """prompt: renders the turns of the examples; None where configurations are only checked."""
        self.options, self.prompt = options, prompt

    @abstractmethod
    def apply(self, examples: "list[Example]", data: KaldiDir, random: np.random.Generator
              ) -> "tuple[list[Example], Report]":
        """The examples to train on (one that stands there twice is heard twice an epoch), and what was done and why.

        data: the directory of the examples. Raises DataError for a table that is missing or not in order.
        """


def side_table(name: str) -> None:
    """Raise ConfigError unless `name` is that of a table which subset, combine, split and fix carry along."""
    if not name.startswith("utt2") or "/" in name:
        raise ConfigError(f"table: '{name}': tables of utterances are called utt2<what>; rename it")

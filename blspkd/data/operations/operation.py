"""What every data operation is: a class with options that takes examples and gives those to train on."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blspkd.kaldi.data_dir import KaldiDir

if TYPE_CHECKING:  # it imports torch, and configurations are checked without
    from blspkd.data.examples import Example

Report = dict[str, list[str]]  # reason -> ids of the utterances that it changed something for


class Operation(ABC):
    """Leaves out, repeats or reorders the examples of a training set.

    What it has to know of an utterance stands in tables `utt2<what>` of the data directory (`read_table(data.path /
    "utt2quality")`): subset, combine, split and fix carry them along. The same examples, directory and random numbers
    must give the same result: every rank of a training, and every run that resumes, applies it anew.
    """

    @dataclass(frozen=True)
    class Options:
        """The keys that an entry of `data.operations` may have besides `name`."""

    def __init__(self, options: Options):
        self.options = options

    @abstractmethod
    def apply(self, examples: "list[Example]", data: KaldiDir, random: np.random.Generator
              ) -> "tuple[list[Example], Report]":
        """The examples to train on (one that stands there twice is heard twice an epoch), and what was done and why.

        data: the directory of the examples. Raises DataError for a table that is missing or not in order.
        """

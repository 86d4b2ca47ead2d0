"""What a training has to know of all its examples before the first step, as columns: no object for each of them.

Examples come as a list, or as `LazyExamples`, which make one when a batch needs it. Imports no torch.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from blspkd.data.examples import Example


@dataclass(frozen=True)
class Columns:
    """What batches are planned with."""

    lengths: np.ndarray  # [n] int64: LLM positions of the whole sequence
    durations: np.ndarray  # [n] float64: seconds
    rates: np.ndarray  # [n] float64: share of the epochs that hear it


class LazyExamples(Sequence):
    """Examples without tags, weights or rates of their own, made when they are asked for."""

    columns: Columns

    @abstractmethod
    def __getitem__(self, index: int) -> "Example":
        """A new Example."""

    @abstractmethod
    def token_counts(self) -> np.ndarray:
        """[v] int64: how often each token stands in the inputs; v: the largest that does, and 1."""

    @abstractmethod
    def prefixes(self) -> set[bytes]:
        """The different prefixes, each as the bytes of its int32."""

    @abstractmethod
    def without_prompt(self) -> "LazyExamples":
        """The same with their inputs alone."""

    def __len__(self) -> int:
        return len(self.columns.lengths)


def columns(examples: "Sequence[Example]") -> Columns:
    """What batches are planned with."""
    if isinstance(examples, LazyExamples):
        return examples.columns
    return Columns(np.array([example.length for example in examples]),
                   np.array([example.duration for example in examples]),
                   np.array([example.rate for example in examples]))


def token_counts(examples: "Sequence[Example]") -> np.ndarray:
    """[v] int64: how often each token stands in the inputs; v: the largest that does, and 1."""
    if isinstance(examples, LazyExamples):
        return examples.token_counts()
    return np.bincount(np.concatenate([example.input for example in examples]))


def prefixes(examples: "Sequence[Example]") -> set[bytes]:
    """The different prefixes, each as the bytes of its int32."""
    if isinstance(examples, LazyExamples):
        return examples.prefixes()
    return {example.prefix.tobytes() for example in examples}

"""What a metric is: a table of numbers per utterance, and a score of their sums.

Its value is the score of the sums over all utterances; its interval and the paired test of two
systems are scores of the sums over resampled ones. Scores are percentages. With few utterances an
interval is too narrow: of 5, 10, 20 and 50 it holds the true value about 80, 90, 92 and 94 times in
100; of one it has no width.
"""

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from blspkd.evaluation.bootstrap import Statistics, ratio
from blspkd.evaluation.scorers.texts import text_signature
from blspkd.evaluation_config import TaskConfig


@dataclass(frozen=True)
class Score:
    """One number; `value` and its interval are percentages, `signature` says how it came about."""

    metric: str
    value: float
    ci95: tuple[float, float]
    n: int  # utterances
    signature: str


class Scorer(ABC):
    """One metric, over rows of `hyp.jsonl`; whatever shows it asks here how."""

    label: ClassVar[str]  # in tables
    better: ClassVar[Literal["higher", "lower", "neither"]] = "higher"
    averages: ClassVar[bool] = False  # the table is `shares`, so that several tasks have a mean
    # Ending of a further metric's name -> two columns of the table: percent of the second's sum
    # that the first's is.
    parts: ClassVar[Mapping[str, tuple[int, int]]] = {}
    needs_typed: ClassVar[bool] = False  # rows have `typed`, the answer to the typed transcript
    package: ClassVar[str] = ""  # whose version belongs to the signature
    cited: ClassVar[str] = ""  # stands on the screen before the signature; empty: not shown there

    @abstractmethod
    def table(self, rows: Sequence[Mapping], task: TaskConfig) -> np.ndarray:
        """[n, K], one row per utterance that can be judged.

        Raises DataError for an empty reference.
        """

    def score(self, sums: np.ndarray) -> np.ndarray:
        """Sums of the table's rows [..., K] -> percentages [...]."""
        return ratio(sums)

    def signature(self, task: TaskConfig) -> str:
        """How the number comes about; draws, seed and `package` are added to it."""
        return text_signature(task)

    def statistics(self, rows: Sequence[Mapping], task: TaskConfig) -> Statistics:
        """What a paired test needs."""
        return Statistics(self.table(rows, task), self.score)

    def measure(self, metric: str, rows: Sequence[Mapping], task: TaskConfig,
                num_bootstrap: int, seed: int) -> list[Score]:
        """The metric under this name, then its parts; nothing where no utterance can be judged."""
        whole = self.statistics(rows, task)
        several = {"": whole} | {ending: Statistics(whole.table[:, columns], ratio)
                                 for ending, columns in self.parts.items()}
        version = ""
        if self.package:
            version = f"|version:{self.package}-{importlib.metadata.version(self.package)}"
        return [scored(metric + ending, part, self.signature(task), num_bootstrap, seed, version)
                for ending, part in several.items() if len(whole.table)]


def scored(metric: str, statistics: Statistics, signature: str, num_bootstrap: int, seed: int,
           version: str = "") -> Score:
    """With its interval, whose draws the signature tells."""
    return Score(metric, statistics.value, statistics.interval(num_bootstrap, seed),
                 len(statistics.table), f"{signature}|bs:{num_bootstrap}|seed:{seed}{version}")


def shares(values: Sequence[float]) -> np.ndarray:
    """Table [n, 2] of a mean in percent: flags, or shares from 0 to 1."""
    values = np.asarray(values, dtype=np.float64)
    return np.stack([values, np.ones_like(values)], axis=1)

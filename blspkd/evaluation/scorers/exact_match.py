"""The percentage of answers that are the reference."""

from collections.abc import Mapping, Sequence

import numpy as np

from blspkd.evaluation.scorers.scorer import Scorer, shares
from blspkd.evaluation.scorers.texts import folded
from blspkd.evaluation_config import TaskConfig


class ExactMatch(Scorer):
    label = "exact match"
    averages = True

    def table(self, rows: Sequence[Mapping], task: TaskConfig) -> np.ndarray:
        pairs = zip(*folded(rows, task.normalize), strict=True)
        return shares([hypothesis == reference for hypothesis, reference in pairs])

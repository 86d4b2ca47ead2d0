"""The percentage of answers in which the reference occurs, as whole words: a sentence may stand around it."""

from collections.abc import Mapping, Sequence

import numpy as np

from blspkd.evaluation.scorers.scorer import Scorer, shares
from blspkd.evaluation.scorers.texts import folded
from blspkd.evaluation_config import TaskConfig


class Contains(Scorer):
    label = "right answer"
    averages = True

    def table(self, rows: Sequence[Mapping], task: TaskConfig) -> np.ndarray:
        pairs = zip(*folded(rows, task.normalize), strict=True)
        return shares([f" {reference} " in f" {hypothesis} " for hypothesis, reference in pairs])

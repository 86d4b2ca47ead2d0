"""Does the adapter make as many speech tokens as the transcript has LLM tokens?"""

from collections.abc import Mapping, Sequence

import numpy as np

from blspkd.evaluation.scorers.scorer import Scorer, shares
from blspkd.evaluation_config import TaskConfig


class CountAccuracy(Scorer):
    """Percent of utterances, of those with a transcript."""

    label = "count accuracy"

    def table(self, rows: Sequence[Mapping], task: TaskConfig) -> np.ndarray:
        return shares([row["n_tokens"] == row["n_tokens_reference"] for row in rows
                       if row["n_tokens_reference"] is not None])

    def signature(self, task: TaskConfig) -> str:
        return "speech tokens == transcript tokens"

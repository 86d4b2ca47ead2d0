"""Agreement with what the same LLM answers when the transcript is typed in: the same answer, right or wrong.

Measures listening alone, for instructions that have no reference or that the LLM is bad at. To be read beside `chance`,
the answers to two typed transcripts, which are often alike.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from blspkd.evaluation.scorers.bleu_chrf import Chrf
from blspkd.evaluation.scorers.exact_match import ExactMatch
from blspkd.evaluation.scorers.scorer import Scorer, shares
from blspkd.evaluation.scorers.texts import normalize
from blspkd.evaluation_config import TaskConfig


def typed(rows: Sequence[Mapping]) -> list[dict]:
    """Rows whose reference is the answer to the typed transcript; those in which that is empty are left out.

    Chance is the answer to another typed transcript, so that it does not depend on how well a system listens.
    """
    return [dict(row) | {"reference": row["typed"], "hypothesis": row.get("typed_of_heard", row["hypothesis"])}
            for row in rows if row["typed"].strip()]


class AgreementExact(ExactMatch):
    """Percentage of equal answers; white space does not count, case and punctuation do."""

    label = "agreement, exact"
    needs_typed = True

    def table(self, rows: Sequence[Mapping], task: TaskConfig) -> np.ndarray:
        return super().table(typed(rows), TaskConfig(normalize=False))

    def signature(self, task: TaskConfig) -> str:
        return super().signature(TaskConfig(normalize=False))


class AgreementChrf(Chrf):
    """chrF of the answers, with those to the typed transcripts as references."""

    label = "agreement, chrF"
    needs_typed = True

    def measure(self, metric: str, rows: Sequence[Mapping], task: TaskConfig, num_bootstrap: int, seed: int):
        rows = typed(rows)
        return super().measure(metric, rows, task, num_bootstrap, seed) if rows else []

    def table(self, rows: Sequence[Mapping], task: TaskConfig) -> np.ndarray:
        return super().table(typed(rows), task)


class AgreementFirstWord(Scorer):
    """Percentage of answers that begin with the same word, whatever its case."""

    label = "agreement, first word"
    averages = True
    needs_typed = True

    def table(self, rows: Sequence[Mapping], task: TaskConfig) -> np.ndarray:
        return shares([_first(row["hypothesis"]) == _first(row["reference"]) for row in typed(rows)])


def _first(text: str) -> str:
    return next(iter(normalize(text).split()), "")

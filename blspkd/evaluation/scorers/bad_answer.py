"""The percentage of answers that are bad where the same LLM's answer to the typed transcript is not."""

from collections.abc import Mapping, Sequence

import numpy as np

from blspkd.evaluation.scorers.agreement import typed
from blspkd.evaluation.scorers.health import Empty, Looped, units
from blspkd.evaluation.scorers.scorer import Scorer, shares
from blspkd.evaluation_config import TaskConfig

FOREIGN_SHARE = 0.5  # of an answer's words


class BadAnswer(Scorer):
    """Empty, looped, or mostly of words that no transcript and no answer to a typed transcript of this set has.

    For instructions without a reference, such as continuing: what did a model learn from bad continuations? For whole
    sets: a part of one (by_count, by_first_word) knows fewer words, and calls more of them unknown.
    """

    label = "bad answers"
    better = "lower"
    averages = True
    needs_typed = True

    def table(self, rows: Sequence[Mapping], task: TaskConfig) -> np.ndarray:
        known = {unit for row in rows for text in (row["transcript"], row["typed"]) for unit in units(text)}
        return shares([Empty().is_bad(row) or Looped().is_bad(row) or _is_foreign(row["hypothesis"], known)
                       for row in typed(rows)])

    def signature(self, task: TaskConfig) -> str:
        return f"empty, looped, or more than {100 * FOREIGN_SHARE:g} % unknown words; to typed text not"


def _is_foreign(answer: str, known: set[str]) -> bool:
    words = units(answer)
    return sum(word not in known for word in words) > FOREIGN_SHARE * len(words)

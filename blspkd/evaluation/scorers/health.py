"""Is an answer an answer at all? Hypotheses that are empty, looped, copied, or of unknown words.

They are seen as normalised words; text that is written without blanks is taken by characters. Rows
need the keys `hypothesis`, `reference`, `transcript` and `instruction`.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from blspkd.data.repetition import is_looping
from blspkd.evaluation.scorers.scorer import Scorer, shares
from blspkd.evaluation.scorers.texts import normalize
from blspkd.evaluation_config import TaskConfig

MAX_PERIOD = 8  # units of the longest n-gram that counts as a loop when it repeats
IN_A_ROW = 4  # repetitions that make a loop
COPIED_UNITS = 4  # a shorter run is no copy
COPIED_SHARE = 0.5  # of what is copied from
LONG_WORD = 20  # characters of a "word" that must be a text without blanks


class Health(Scorer):
    """A measure of bad answers; its `meaning` is its signature and the legend of tables."""

    better = "lower"
    meaning: ClassVar[str]

    def signature(self, task: TaskConfig) -> str:
        return self.meaning


class Flag(Health):
    """The percentage of bad answers."""

    @abstractmethod
    def is_bad(self, row: Mapping) -> bool:
        """Whether this answer is."""

    def table(self, rows: Sequence[Mapping], task: TaskConfig) -> np.ndarray:
        return shares([self.is_bad(row) for row in rows])


class Empty(Flag):
    label = "empty"
    meaning = "nothing but punctuation"

    def is_bad(self, row: Mapping) -> bool:
        return not units(row["hypothesis"])


class Looped(Flag):
    """Some n-gram (n up to MAX_PERIOD) comes IN_A_ROW times in a row, and not in the reference likewise."""

    label = "looped"
    meaning = (f"1 to {MAX_PERIOD} words repeated {IN_A_ROW} or more times in a row, in the "
               "reference not")

    def is_bad(self, row: Mapping) -> bool:
        hypothesis, reference = (is_looping(units(row[key]), MAX_PERIOD, IN_A_ROW)
                                 for key in ("hypothesis", "reference"))
        return hypothesis and not reference


class Copied(Flag):
    """The hypothesis repeats the instruction, or much of the transcript, where the reference does not."""

    label = "copied"
    meaning = (f"a run of {COPIED_UNITS} or more words, and of half of the instruction or the "
               "transcript, copied from it; longer than in the reference")

    def is_bad(self, row: Mapping) -> bool:
        hypothesis, reference = units(row["hypothesis"]), units(row["reference"])
        for source in (units(row["instruction"]), units(row["transcript"])):
            run = longest_common_run(hypothesis, source)
            enough = max(COPIED_UNITS, COPIED_SHARE * len(source))
            if run >= enough and run > longest_common_run(reference, source):
                return True
        return False


class Foreign(Health):
    """A wrong language, where the references are many enough to hold the task's words."""

    label = "foreign"
    meaning = "percent of words that no reference of this task and set has"

    def table(self, rows: Sequence[Mapping], task: TaskConfig) -> np.ndarray:
        """[n, 2]: words that no reference has, words; of the hypotheses that have words."""
        known = {unit for row in rows for unit in units(row["reference"])}
        answers = [units(row["hypothesis"]) for row in rows]
        return _with_words([(sum(unit not in known for unit in answer), len(answer))
                            for answer in answers])


class LengthRatio(Health):
    label = "length ratio"
    better = "neither"
    meaning = "words, percent of the references'"

    def table(self, rows: Sequence[Mapping], task: TaskConfig) -> np.ndarray:
        """[n, 2]: words of the hypothesis, words of the reference."""
        return _with_words([(len(units(row["hypothesis"])), len(units(row["reference"])))
                            for row in rows])


def units(text: str) -> list[str]:
    """Normalised words; characters where there are no blanks to make words."""
    words = normalize(text).split()
    return [part for word in words for part in (word if len(word) > LONG_WORD else [word])]


def longest_common_run(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest stretch that both hold in one piece."""
    best, before = 0, [0] * (len(right) + 1)
    for item in left:
        row = [0] * (len(right) + 1)
        for place, other in enumerate(right, 1):
            if item == other:
                row[place] = before[place - 1] + 1
                best = max(best, row[place])
        before = row
    return best


def _with_words(counts: Sequence[tuple[int, int]]) -> np.ndarray:
    return np.array([pair for pair in counts if pair[1]], dtype=np.float64).reshape(-1, 2)

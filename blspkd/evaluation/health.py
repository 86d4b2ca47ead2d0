"""Is an answer an answer at all? Shares of hypotheses that are empty, looped, copied, or of unknown words.

Pure functions on the rows of `hyp.jsonl` (keys `hypothesis`, `reference`, `transcript`, `instruction`). They see
normalised words (`metrics.normalize`); text that is written without blanks is taken by characters.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from blspkd.data.repetition import is_looping
from blspkd.evaluation import metrics

MAX_PERIOD = 8  # units of the longest n-gram that counts as a loop when it repeats
IN_A_ROW = 4  # repetitions that make a loop
COPIED_UNITS = 4  # a shorter run is no copy
COPIED_SHARE = 0.5  # of what is copied from
LONG_WORD = 20  # characters of a "word" that must be a text without blanks

KNOWN = ("empty", "looped", "copied", "foreign", "length_ratio")
SIGNATURES = {
    "empty": "nothing but punctuation",
    "looped": f"1 to {MAX_PERIOD} words repeated {IN_A_ROW} or more times in a row, in the reference not",
    "copied": f"a run of {COPIED_UNITS} or more words, and of half of the instruction or the transcript, copied from "
              "it; longer than in the reference",
    "foreign": "percent of words that no reference of this task and set has",
    "length_ratio": "words, percent of the references'",
}


def units(text: str) -> list[str]:
    """Normalised words; characters where there are no blanks to make words."""
    words = metrics.normalize(text).split()
    return [character for word in words for character in (word if len(word) > LONG_WORD else [word])]


def is_empty(row: Mapping) -> bool:
    return not units(row["hypothesis"])


def is_looped(row: Mapping) -> bool:
    """Whether some n-gram (n up to MAX_PERIOD) comes IN_A_ROW times in a row, and not in the reference likewise."""
    hypothesis, reference = (is_looping(units(row[key]), MAX_PERIOD, IN_A_ROW) for key in ("hypothesis", "reference"))
    return hypothesis and not reference


def is_copied(row: Mapping) -> bool:
    """Whether the hypothesis repeats the instruction, or much of the transcript, where the reference does not."""
    hypothesis, reference = units(row["hypothesis"]), units(row["reference"])
    for source in (units(row["instruction"]), units(row["transcript"])):
        run = longest_common_run(hypothesis, source)
        enough = max(COPIED_UNITS, COPIED_SHARE * len(source))
        if run >= enough and run > longest_common_run(reference, source):
            return True
    return False


def out_of_reference_words(rows: Sequence[Mapping]) -> list[tuple[int, int]]:
    """(words that no reference has, words) of every hypothesis.

    It shows a wrong language where the references are many enough to hold the task's words; elsewhere rare words count.
    """
    known = {unit for row in rows for unit in units(row["reference"])}
    heard = [units(row["hypothesis"]) for row in rows]
    return [(sum(unit not in known for unit in found), len(found)) for found in heard]


def length_ratio(rows: Sequence[Mapping]) -> list[tuple[int, int]]:
    """(words of the hypothesis, words of the reference) of every row."""
    return [(len(units(row["hypothesis"])), len(units(row["reference"]))) for row in rows]


def score(rows: Sequence[Mapping], num_bootstrap: int, seed: int) -> list[metrics.Score]:
    """All measures of one task and set; one that cannot be judged (no word in any hypothesis) is left out."""
    flags: dict[str, Callable[[Mapping], bool]] = {"empty": is_empty, "looped": is_looped, "copied": is_copied}
    scores = [metrics.percent_true(name, [test(row) for row in rows], num_bootstrap, seed, SIGNATURES[name])
              for name, test in flags.items()]
    for name, counts in (("foreign", out_of_reference_words(rows)), ("length_ratio", length_ratio(rows))):
        found, total = np.array([pair for pair in counts if pair[1]], dtype=np.float64).reshape(-1, 2).T
        if len(total):
            scores.append(metrics.percent_of(name, found, total, num_bootstrap, seed, SIGNATURES[name]))
    return scores


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

"""Parts of a test set that are scored apart, as tasks of their own: `qa:who`, `qa:tokens=right`."""

from collections.abc import Mapping, Sequence

from blspkd.evaluation.results import TOKENS, TYPE
from blspkd.evaluation.scorers.texts import normalize


def by_first_word(answers: Sequence[dict]) -> dict[str, list[dict]]:
    """First word of the instruction, in lower case and without punctuation -> its answers, in the words' order."""
    found: dict[str, list[dict]] = {}
    for row in answers:
        words = normalize(row["instruction"]).split()
        found.setdefault(words[0] if words else "", []).append(row)
    return dict(sorted(found.items()))


def by_count(answers: Sequence[Mapping]) -> dict[str, list[dict]]:
    """Whether an utterance has as many speech tokens as its transcript has tokens -> its answers.

    A part without utterances is left out, and so are utterances without a transcript.
    """
    found: dict[str, list[dict]] = {TOKENS + "right": [], TOKENS + "wrong": []}
    for row in answers:
        if row["n_tokens_reference"] is not None:
            right = row["n_tokens"] == row["n_tokens_reference"]
            found[TOKENS + ("right" if right else "wrong")].append(row)
    return {part: rows for part, rows in found.items() if rows}


def slices(task: str, answers: Sequence[dict], first_word: bool, count: bool) -> dict[str, list[dict]]:
    """Names of tasks -> answers: of all parts that are asked for."""
    parts = (by_first_word(answers) if first_word else {}) | (by_count(answers) if count else {})
    return {task + TYPE + part: rows for part, rows in parts.items()}

"""Texts as they are compared: without case and punctuation, unless the task says `normalize: false`."""

import unicodedata
from collections.abc import Mapping, Sequence

from blspkd.errors import DataError
from blspkd.evaluation_config import TaskConfig

# Deleted, where other punctuation becomes a space: don't -> dont
APOSTROPHES = "'\u2019\u02bc`\u00b4"


def normalize(text: str) -> str:
    """Lower case, NFKC, apostrophes deleted, other punctuation and white space folded.

    Punctuation is Unicode's categories P*; symbols such as + and $, and all marks and letters of any
    script, stay.
    """
    text = unicodedata.normalize("NFKC", text.translate({ord(mark): None for mark in APOSTROPHES}))
    text = unicodedata.normalize("NFKC", text.lower())
    return fold("".join(" " if unicodedata.category(c).startswith("P") else c for c in text))


def fold(text: str) -> str:
    """Single blanks in the place of any white space, none at the ends."""
    return " ".join(text.split())


def folded(rows: Sequence[Mapping], normalized: bool) -> tuple[list[str], list[str]]:
    """Hypotheses and references, white space folded at least.

    Raises DataError that names an empty reference.
    """
    change = normalize if normalized else fold
    references = [change(row["reference"]) for row in rows]
    for row, reference in zip(rows, references, strict=True):
        if not reference:
            written = row["reference"]
            rest = f"; nothing is left of {written!r} after normalising" if written.strip() else ""
            raise DataError(f"utterance {row['utt_id']}: its reference is empty{rest}; write one or "
                            "leave the utterance out")
    return [change(row["hypothesis"]) for row in rows], references


def text_signature(task: TaskConfig) -> str:
    """What is done to the texts first."""
    return "case:lower|punct:stripped|form:nfkc" if task.normalize else "case:mixed|punct:kept"

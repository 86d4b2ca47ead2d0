"""A recogniser's transcripts in the style of the training text, so that a cascade is not judged by its spelling.

Whisper writes "Enter 35." where a corpus says "enter thirty five", and "PHIL-IPS" for "p h i l l i p s". What an LLM
makes of the two differs more than what was heard. English only; what is changed depends on what the training text
shows:

- figures become words where the training text has no figures: digit by digit, but for numbers below 100, years and
  ordinals
- letters in capitals or with hyphens between become single ones where the training text spells words
- a transcript becomes lower case without punctuation where all of its words then stand in training transcripts that are
  written so
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
         "seventeen eighteen nineteen").split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
             "twelve": "twelfth"}
_SPELLED = re.compile(r"\b(?:[A-Z]-?){2,}\b|\b[A-Za-z](?:[-. ]{1,2}[A-Za-z]\b\.?){2,}")


@dataclass(frozen=True)
class TranscriptStyle:
    """What a training text shows."""

    figures: bool  # it writes numbers in figures
    spells: bool  # it has words letter by letter
    zero: str  # what it calls the figure 0: zero, or oh
    bare: frozenset[str]  # words of its transcripts in lower case without punctuation

    @classmethod
    def of(cls, texts: Iterable[str]) -> "TranscriptStyle":
        texts = list(texts)
        bare = [text.split() for text in texts if _bare(text) == text]
        words = [word for text in texts for word in text.lower().split()]
        return cls(figures=any(char.isdigit() for text in texts for char in text),
                   spells=any(re.search(r"\b[a-z] [a-z] [a-z]\b", text) for text in texts),
                   zero="oh" if words.count("oh") > words.count("zero") else "zero",
                   bare=frozenset(word for text in bare for word in text))

    def apply(self, text: str) -> str:
        """The transcript in this style."""
        if self.spells:
            text = _SPELLED.sub(lambda found: " ".join(re.sub("[^A-Za-z]", "", found[0]).lower()), text)
        if not self.figures:
            text = re.sub(r"(?<=\d)[-,. ](?=\d)", " ", text)  # 3-4-8: digits one by one
            text = re.sub(r"\d+(?:st|nd|rd|th)?\b", lambda found: self._number(found[0]), text)
        bare = _bare(text)
        return bare if bare and set(bare.split()) <= self.bare else " ".join(text.split())

    def _number(self, figures: str) -> str:
        digits = figures.rstrip("stndrh")
        value = int(digits)
        if digits != figures:
            return _ordinal(value) if value < 100 else figures
        if len(digits) <= 2 and not (digits.startswith("0") and len(digits) > 1):
            return self.zero if value == 0 else _below_hundred(value)
        if len(digits) == 4 and digits[:2] in ("18", "19") and value % 100 >= 10:
            return f"{_below_hundred(value // 100)} {_below_hundred(value % 100)}"
        return " ".join(self.zero if digit == "0" else _ONES[int(digit)] for digit in digits)


def _below_hundred(value: int) -> str:
    if value < 20:
        return _ONES[value]
    return _TENS[value // 10 - 2] + (f" {_ONES[value % 10]}" if value % 10 else "")


def _ordinal(value: int) -> str:
    *before, last = _below_hundred(value).split()
    return " ".join([*before, _ORDINALS.get(last) or f"{last[:-1]}ieth" if last.endswith("y") else
                     _ORDINALS.get(last) or f"{last}th"])


def _bare(text: str) -> str:
    """Lower case, apostrophes kept, other punctuation gone."""
    return " ".join(re.sub(r"[^\w\s']|_", " ", text.lower()).split())

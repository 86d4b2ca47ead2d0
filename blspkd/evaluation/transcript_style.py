"""A recogniser's transcripts in the style of the training text, so that a cascade is not judged by its spelling.

Whisper writes "Enter 35." where a corpus says "enter thirty five", and "PHIL-IPS" for "p h i l l i p s". What an LLM
makes of the two differs more than what was heard. English only; what is changed depends on what the training text
shows:

- figures become words where the training text has no figures; numbers above 99 that are no years are read digit by
  digit, unless the training text says "hundred" and "thousand" more often than rows of digits
- letters in capitals or with hyphens between become single ones where the training text spells words
- case and punctuation become those of the training transcripts. Where some are in lower case (or in capitals) without
  punctuation and others are written as in books, the words decide which kind a transcript is: a naive Bayes classifier
  of the kinds, trained on the training text
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import log

DIGITS = "zero one two three four five six seven eight nine oh".split()
_SPELLED = re.compile(r"\b[A-Za-z](?:[-. ]{1,2}[A-Za-z]\b\.?){2,}")  # P-H-I-L, p. h. i. l.
_CAPITALS = re.compile(r"\b(?:[A-Z]-?){2,}\b")  # PHIL-IPS
_ROW = re.compile(rf"\b(?:{'|'.join(DIGITS)})(?: (?:{'|'.join(DIGITS)}))+\b")
_NUMBER = re.compile(r"\d+(?:st|nd|rd|th)\b|\d+[:.]\d+|\d+")


@dataclass(frozen=True)
class TranscriptStyle:
    """What a training text shows."""

    figures: bool  # it writes numbers in figures
    counts: bool  # it says "three hundred", and not "three zero zero"
    spells: bool  # it has words letter by letter
    zero: str  # what it calls the figure 0: zero, or oh
    kinds: Mapping[str, Counter]  # written, lower, upper: the words of the transcripts that are of this kind
    shares: Mapping[str, int]  # how many transcripts are

    @classmethod
    def of(cls, texts: Iterable[str]) -> "TranscriptStyle":
        texts = [text for text in texts if _bare(text)]
        kinds: dict[str, Counter] = {}
        for text in texts:
            kinds.setdefault(_kind(text), Counter()).update(_bare(text).split())
        words = sum(kinds.values(), Counter())
        rows = sum(len(_ROW.findall(_bare(text))) for text in texts)
        return cls(figures=any(char.isdigit() for text in texts for char in text),
                   counts=words["hundred"] + words["thousand"] > rows,
                   spells=any(re.search(r"\b[a-z] [a-z] [a-z]\b", text.lower()) for text in texts),
                   zero="oh" if words["oh"] > words["zero"] else "zero",
                   kinds=kinds, shares=Counter(map(_kind, texts)))

    def restyle(self, transcripts: Mapping[str, str]) -> dict[str, str]:
        """The transcripts of one recogniser, by utterance, in this style.

        Where most are in capitals throughout, capitals spell no words.
        """
        texts = [text for text in transcripts.values() if _bare(text)]
        cased = 2 * sum(text == text.upper() for text in texts if len(text.split()) > 1) <= len(texts)
        return {utt_id: self.apply(text, cased) for utt_id, text in transcripts.items()}

    def apply(self, text: str, cased: bool = True) -> str:
        """One transcript; cased: it was written by a recogniser that knows upper and lower case."""
        if self.spells:
            for letters in (_CAPITALS, _SPELLED) if cased else (_SPELLED,):
                text = letters.sub(lambda found: " ".join(re.sub("[^A-Za-z]", "", found[0]).lower()), text)
        if not self.figures:
            text = self._in_words(text)
        text = " ".join(text.split())
        kind = self._kind_of(_bare(text).split())
        return text if kind == "written" or not _bare(text) else getattr(_bare(text), kind)()

    def _kind_of(self, words: list[str]) -> str:
        """The likeliest one; the more frequent one where words tell nothing."""
        if not self.kinds:
            return "written"
        known = sum(self.kinds.values(), Counter())
        scores = {kind: log(self.shares[kind]) + sum(log((counts[word] + 1) / (counts.total() + len(known)))
                                                     for word in words if word in known)
                  for kind, counts in self.kinds.items()}
        return max(scores, key=scores.__getitem__)

    def _in_words(self, text: str) -> str:
        text = re.sub(r"\b\d{1,3}(?:,\d{3})+\b", lambda found: self._words(found[0].replace(",", ""), year=False), text)
        text = re.sub(r"\b\d+(?:-\d+)+\b", lambda found: " ".join(found[0].replace("-", "")), text)  # 555-1234
        text = re.sub(r"\$(\d+(?:\.\d+)?)", r"\1 dollars", text).replace("%", " percent")
        text = re.sub(r"(?<=[A-Za-z])(?=\d)", " ", text)  # B12
        text = re.sub(r"(?<=\d)(?=(?!(?:st|nd|rd|th)\b)[A-Za-z])", " ", text)
        return _NUMBER.sub(lambda found: self._words(found[0]), text)

    def _words(self, number: str, year: bool = True) -> str:
        """A number in figures, said in words."""
        if not number.isdigit():
            first, mark, rest = re.match(r"(\d+)([:.]?)(.*)", number).groups()
            if mark == ":":  # 10:30, 10:05, 10:00
                return " ".join([self._words(first), *(["oh"] if rest[0] == "0" and int(rest) else []),
                                 *([self._words(str(int(rest)))] if int(rest) else [])])
            return _cardinal(number)
        if year and len(number) == 4 and (number[0] == "1" or number[:2] == "20") and number[2:] != "00":
            century, rest = number[:2], number[2:]
            if number[:3] == "200":
                return _cardinal(number)
            return f"{_cardinal(century)} {'oh ' if rest[0] == '0' else ''}{_cardinal(str(int(rest)))}"
        if number == "0" or (number[0] != "0" and (len(number) <= 2 or self.counts)):
            return self.zero if number == "0" else _cardinal(number)
        return " ".join(self.zero if digit == "0" else DIGITS[int(digit)] for digit in number)


def _cardinal(number: str) -> str:
    """Also an ordinal (15th), or with decimals (3.5)."""
    import inflect  # half a second

    return re.sub("[-,]+", " ", inflect.engine().number_to_words(number, andword="")).replace("  ", " ")


def _kind(text: str) -> str:
    bare = _bare(text)
    return "lower" if text == bare else "upper" if text == bare.upper() else "written"


def _bare(text: str) -> str:
    """Lower case, apostrophes kept, other punctuation gone."""
    return " ".join(re.sub(r"[^\w\s']|_", " ", text.lower()).split())

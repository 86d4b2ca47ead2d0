"""A recogniser's transcripts in the style of the training text, so that a cascade is not judged by its spelling.

Whisper writes "Enter 35." where a corpus says "enter thirty five", and "PHIL-IPS" for "p h i l l i p s". What an LLM
makes of the two differs more than what was heard. English only; what is changed depends on what the training text
shows:

- figures become words where the training text has no figures; numbers above 99 that are no years are read digit by
  digit, unless the training text says "hundred" and "thousand" more often than rows of digits
- letters in capitals or with hyphens between become single ones where the training text spells words
- case and punctuation become those of the training transcripts: as in books, in lower case with or without
  punctuation, or in capitals without. Where several kinds occur, the words decide of which a transcript is: a naive
  Bayes classifier of the kinds, trained on the training text
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
_NUMBER = re.compile(r"\d+(?:st|nd|rd|th)\b|\d+[:.]\d+|\d+", re.IGNORECASE)
_LETTERS = re.compile(r"(?<!')\b[a-z] [a-z] [a-z]\b")
_SPELLS = 0.005  # share of the training transcripts that spell, from which on a word in capitals is spelled, too
_LONGEST = 12  # digits of a number that has a name
RULES = 2  # of this file: what was decoded with others is not reused


@dataclass(frozen=True)
class TranscriptStyle:
    """What a training text shows."""

    figures: bool  # it writes numbers in figures
    counts: bool  # it says "three hundred", and not "three zero zero"
    spells: bool  # it has words letter by letter
    zero: str  # what it calls the figure 0: zero, or oh
    kinds: Mapping[str, Counter]  # written, lower, small, upper: the words of the transcripts that are of this kind
    shares: Mapping[str, int]  # how many transcripts are
    known: frozenset[str]  # all words

    @classmethod
    def of(cls, texts: Iterable[str]) -> "TranscriptStyle":
        texts = [text for text in texts if _bare(text)]
        kinds: dict[str, Counter] = {}
        for text in texts:
            kinds.setdefault(_kind(text), Counter()).update(_bare(text).split())
        words = sum(kinds.values(), Counter())
        rows = sum(len(_ROW.findall(_bare(text))) for text in texts)
        return cls(figures=not texts or any(char.isdigit() for text in texts for char in text),
                   counts=words["hundred"] + words["thousand"] > rows,
                   spells=sum(bool(_LETTERS.search(text.lower())) for text in texts) > _SPELLS * len(texts),
                   zero="oh" if words["oh"] > words["zero"] else "zero",
                   kinds=kinds, shares=Counter(map(_kind, texts)), known=frozenset(words))

    def restyle(self, transcripts: Mapping[str, str]) -> dict[str, str]:
        """The transcripts of one recogniser, by utterance, in this style.

        Where hardly a word has a small letter, capitals spell no words.
        """
        words = [word for text in transcripts.values() for word in re.findall(r"[^\W\d_]{2,}", text)]
        cased = sum(word != word.upper() for word in words) > 0.01 * len(words)
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
        return {"written": text, "small": text.lower(), "lower": _bare(text), "upper": _bare(text).upper()}[kind]

    def _kind_of(self, words: list[str]) -> str:
        """The likeliest one; the more frequent one where words tell nothing."""
        words = [word for word in words if word in self.known]
        if not words and len(self.kinds) != 1:
            return max(self.shares, key=self.shares.__getitem__, default="written")
        scores = {}
        for kind, counts in self.kinds.items():
            total = counts.total() + len(self.known)
            scores[kind] = log(self.shares[kind]) + sum(log((counts[word] + 1) / total) for word in words)
        return max(scores, key=scores.__getitem__)

    def _in_words(self, text: str) -> str:
        text = re.sub(r"\$(\d[\d,]*(?:\.\d+)?)", r"\1 dollars", text).replace("%", " percent")
        text = re.sub(r"\b\d{1,3}(?:,\d{3})+(?:\.\d+)?\b",
                      lambda found: self._words(found[0].replace(",", ""), is_count=True), text)
        # 555-1234, 3-4-8, but not 10-15
        text = re.sub(r"\b\d+(?:-\d+)+\b", lambda found: " ".join(
            found[0].replace("-", "") if len(found[0]) > 5 or found[0].count("-") > 1 else found[0].split("-")), text)
        text = re.sub(r"(?<=[A-Za-z])(?=\d)", " ", text)  # B12
        text = re.sub(r"(?<=\d)(?=(?!(?:st|nd|rd|th)\b)[A-Za-z])", " ", text, flags=re.IGNORECASE)
        return _NUMBER.sub(lambda found: self._words(found[0]), text)

    def _words(self, number: str, is_count: bool = False) -> str:
        """A number in figures, said in words; is_count: it is no year, and no row of digits."""
        digits = re.sub(r"\D", "", number)
        if len(digits) > _LONGEST:
            return self._digit_by_digit(digits)
        if is_count:
            return _cardinal(number)
        if not number.isdigit():
            first, mark, rest = re.match(r"(\d+)([:.]?)(.*)", number.lower()).groups()
            if mark == ":":  # 10:30, 10:05, 10:00
                return " ".join([self._words(first), *(["oh"] if rest[0] == "0" and int(rest) else []),
                                 *([self._words(str(int(rest)))] if int(rest) else [])])
            return _cardinal(number.lower())
        if len(number) == 4 and (number[0] == "1" or number[:2] == "20"):
            century, rest = number[:2], number[2:]
            if century[1] == "0" and rest[0] == "0":  # 2000, 2005, 1000
                return _cardinal(number)
            if rest == "00":
                return f"{_cardinal(century)} hundred"
            return f"{_cardinal(century)} {'oh ' if rest[0] == '0' else ''}{_cardinal(str(int(rest)))}"
        if number == "0" or (number[0] != "0" and (len(number) <= 2 or self.counts)):
            return self.zero if number == "0" else _cardinal(number)
        return self._digit_by_digit(number)

    def _digit_by_digit(self, number: str) -> str:
        return " ".join(self.zero if digit == "0" else DIGITS[int(digit)] for digit in number)


def _cardinal(number: str) -> str:
    """Also an ordinal (15th), or with decimals (3.5)."""
    import inflect  # half a second

    return re.sub("[-,]+", " ", inflect.engine().number_to_words(number, andword="")).replace("  ", " ")


def _kind(text: str) -> str:
    bare = _bare(text)
    if text == bare.upper() != bare:
        return "upper"
    return "lower" if text == bare else "small" if text == text.lower() else "written"


def _bare(text: str) -> str:
    """Lower case, apostrophes kept, other punctuation gone."""
    return " ".join(re.sub(r"[^\w\s']|_", " ", text.lower().replace("\u2019", "'")).split())

"""What people say in AN4: commands, numbers, spelt names and addresses, dates, random letters and digits.

A draw is text in lower case. Some draws are sentences of the training speech, or spell what is spelt there; nothing is
taken from the test part, and `draw` never returns one of the sentences that are forbidden.
"""

import random
from collections.abc import Callable, Sequence

from lexicon import COMMANDS, LETTERS, MONTHS, ONES, ORDINALS, SPELT_NAMES, STREET_NAMES, STREETS, TEENS, TENS


class Grammar:
    """Draws sentences. train_texts: transcripts of the training speech; forbidden: sentences never to be drawn."""

    def __init__(self, train_texts: Sequence[str], forbidden: set[str], seed: str):
        self.random = random.Random(seed)
        self.train_texts = [text for text in train_texts if text not in forbidden]
        spelt = [text for text in self.train_texts if all(len(word) == 1 for word in text.split()) and len(text) > 5]
        self.names = [" ".join(name) for name in SPELT_NAMES] + spelt
        self.forbidden = forbidden
        self.kinds: dict[Callable[[], str], float] = {
            self._training: 0.12, self._name: 0.2, self._address: 0.05, self._code: 0.24, self._digits: 0.13,
            self._entry: 0.1, self._date: 0.08, self._amount: 0.05, self._command: 0.03}

    def draw(self) -> str:
        while True:
            text = self.random.choices(list(self.kinds), list(self.kinds.values()))[0]()
            if text not in self.forbidden:
                return text

    def _choose(self, found: Sequence[str]) -> str:
        return self.random.choice(found)

    def _training(self) -> str:
        return self._choose(self.train_texts) if self.train_texts else self._code()

    def _name(self) -> str:
        """`m o n r o e`, sometimes two names, sometimes with letters changed so that no name can be guessed"""
        letters = self._choose(self.names).split()
        if self.random.random() < 0.2:
            letters += self._choose(self.names).split()
        for place in range(len(letters)):
            if self.random.random() < 0.1:
                letters[place] = self._choose(LETTERS)
        if self.random.random() < 0.03:
            letters[1:1] = ["apostrophe"]
        return " ".join(letters[:14])

    def _address(self) -> str:
        """`five one two m a p l e d r i v e`"""
        street = " ".join(self._choose(STREET_NAMES) + self._choose(STREETS))
        return f"{self._digit_words(3)} {street}" if self.random.random() < 0.5 else street

    def _code(self) -> str:
        """`rubout k l m u five two seven`: a command or none, random letters, a number"""
        command = self._choose(["rubout ", "erase ", "", "", ""])
        letters = " ".join(self._choose(LETTERS) for _ in range(self.random.randint(2, 6)))
        return f"{command}{letters} {self._number()}" if self.random.random() < 0.85 else command + letters

    def _digits(self) -> str:
        """`four one two six eight two`: telephone numbers and the like"""
        prefix = "area code " if self.random.random() < 0.03 else ""
        return prefix + self._digit_words(self._choose([3, 4, 4, 5, 5, 5, 6, 7, 7, 7, 8, 9, 10, 10, 10, 11]))

    def _entry(self) -> str:
        return f"enter {self._number()}"

    def _amount(self) -> str:
        """`seven thousand one hundred and eighty six`, alone or behind letters"""
        words = []
        if self.random.random() < 0.6:
            words += [self._choose(list(ONES)), "thousand"]
        if self.random.random() < 0.8 or not words:
            words += [self._choose(list(ONES)), "hundred"]
        if self.random.random() < 0.7:
            words += ["and", self._below_hundred()]
        letters = " ".join(self._choose(LETTERS) for _ in range(4)) if self.random.random() < 0.5 else ""
        return f"{letters} {' '.join(words)}".strip()

    def _date(self) -> str:
        """`june twenty third nineteen sixty nine`, `seven may nineteen forty four`, `three fourteen sixty seven`"""
        month = self._choose(MONTHS)
        year = f"{self._choose(['nineteen ', ''])}{self._choose(list(TENS))} {self._choose([*ONES, '', ''])}".strip()
        ordinal = self._choose(list(ORDINALS)) if self.random.random() < 0.7 else \
            f"{self._choose(['twenty', 'twenty', 'thirty'])} {self._choose(list(ORDINALS)[:9])}"
        number = self._below_hundred()
        return self._choose([f"{month} {ordinal} {year}", f"{month} {ordinal}", f"{number} {month} {year}",
                             f"{self._choose(list(ONES))} {number} {year}",
                             f"{number} {self._choose(['of', ''])} {year}",
                             f"{number} {' '.join(month)} {self._digit_words(4)}"]).replace("  ", " ")

    def _command(self) -> str:
        return self._choose(COMMANDS)

    def _number(self) -> str:
        """`five`, `seventy eight`, `three eighty six`, `five two seven four`, `thirty one oh seven`"""
        if self.random.random() < 0.02:
            return f"{self._below_hundred()} and a half"
        return self._choose([self._digit_words(self.random.randint(1, 4)), self._below_hundred(),
                             f"{self._choose(list(ONES))} {self._below_hundred()}", self._digit_words(3),
                             f"{self._below_hundred()} oh {self._choose(list(ONES))}",
                             f"{self._below_hundred()} {self._below_hundred()}"])

    def _below_hundred(self) -> str:
        ten = f"{self._choose(list(TENS))} {self._choose(list(ONES))}"
        return self._choose([ten, ten, ten, self._choose(list(TENS)), self._choose(list(TEENS)),
                             self._choose(list(ONES))])

    def _digit_words(self, count: int) -> str:
        return " ".join(self._choose([*ONES, *ONES, "oh", "zero"]) for _ in range(count))

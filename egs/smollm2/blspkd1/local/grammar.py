"""Sentences and questions of everyday kind, and, as in AN4, spelled words, numbers, dates and commands.

The words are lexicon.py's; written as Whisper and the LLM write English, with capitals and punctuation, but numbers as
words.
"""

import random
from collections.abc import Callable

from lexicon import (
    ADJECTIVES,
    ANIMALS,
    COMMANDS,
    COUNTRIES,
    DIGITS,
    EAT,
    FOODS,
    INTRANSITIVE,
    MANNERS,
    MONTHS,
    NAMES,
    OPPOSITES,
    ORDINALS,
    PEOPLE,
    PLACES,
    PREPOSITIONS,
    SUBJECTS,
    TEENS,
    TENS,
    THINGS,
    TIMES,
    TRANSITIVE,
    WEATHER,
)

KINDS = {"statement": 0.3, "question": 0.15, "world": 0.25, "number": 0.1, "spelled": 0.1, "date": 0.05,
         "command": 0.05}
PLACE_NAMES = [*COUNTRIES, *(capital for capital, _ in COUNTRIES.values())]
WORDS = [*OPPOSITES, *OPPOSITES.values()]  # that a question may ask about


class Grammar:
    """Draws sentences; equal `stream`s give equal ones."""

    def __init__(self, stream: str):
        self.random = random.Random(stream)

    def draw(self) -> str:
        kind = self.random.choices(list(KINDS), list(KINDS.values()))[0]
        return getattr(self, kind)()

    def statement(self) -> str:
        pattern = self._one([self._deed, self._meal, self._stay, self._being, self._weather, self._journey,
                             self._speech, self._plan, self._count_of])
        words = pattern()
        if self.random.random() < 0.2:
            words += f"{self._one([', and', ', but', ', so', ' because', ' while'])} {self._clause()}"
        return _sentence(words, ".")

    def question(self) -> str:
        """One that needs no answer that is known."""
        who, thing = self._someone(), self._thing()
        return _sentence(self._one([
            lambda: f"did {who} {self._one(['find', 'buy', 'sell', 'clean', 'lose', 'see', 'like', 'need'])} {thing}",
            lambda: f"where is {self._the(THINGS)}", lambda: f"who {self._one(TRANSITIVE)} {thing}",
            lambda: f"why is {self._the(PEOPLE)} so {self._one(ADJECTIVES)}",
            lambda: f"how many {_plural(self._one(ANIMALS + THINGS))} are in the {self._one(PLACES)}",
            lambda: f"do you like {self._one(FOODS + SUBJECTS)}",
            lambda: f"when does {self._the(PEOPLE)} go to the {self._one(PLACES)}",
            lambda: f"can you see the {self._one(ANIMALS)} {self._one(PREPOSITIONS)} the {self._one(PLACES)}",
            lambda: f"would you like some {self._one(FOODS)}",
            lambda: f"have you ever been to {self._one(list(COUNTRIES))}",
        ])(), "?")

    def world(self) -> str:
        """The words that factual questions are made of, with no such question and without any fact."""
        return self._one([self._about_place, self._about_place, self._about_word, self._about_word, self._asking])()

    def _about_place(self) -> str:
        place = self._one(PLACE_NAMES)
        return self._one([
            lambda: _sentence(f"{self._someone()} {self._one(['flew', 'moved', 'drove', 'went'])} to {place}", "."),
            lambda: _sentence(f"{place} is {_article(self._one(ADJECTIVES))} place", "."),
            lambda: _sentence(f"{self._someone()} has {_article(self._one(PEOPLE))} in {place}", "."),
            lambda: _sentence(f"is {place} far away", "?"),
            lambda: _sentence(f"what did {self._someone()} see in {place}", "?"),
        ])()

    def _about_word(self) -> str:
        word = self._one(WORDS)
        return self._one([
            lambda: _sentence(f"{self._someone()} wrote the word {word} on {self._the(THINGS)}", "."),
            lambda: _sentence(f"the word {word} is the opposite of what {self._someone()} said", "."),
            lambda: _sentence(f"the first word is {word} and the last one is {self._one(THINGS)}", "."),
            lambda: _sentence(f"{word} is a word that {self._the(PEOPLE)} likes", "."),
            lambda: _sentence(f"what does the word {word} mean", "?"),
            lambda: _sentence(f"can {self._someone()} spell the word {word}", "?"),
        ])()

    def _asking(self) -> str:
        region = self._one(["kingdom", "island", "province", "empire", "north", "south", "region", "state"])
        what = self._one(["capital", "opposite", "name", "price", "color", "size", "purpose", "meaning", "age"])
        best = self._one(["best", "oldest", "largest", "cheapest", "most beautiful", "smallest", "tallest"])
        return self._one([
            lambda: _sentence(f"what is the {what} of {self._the(THINGS + PLACES)}", "?"),
            lambda: _sentence(f"what is the {what} of {self._one(['that', 'this', 'it'])}", "?"),
            lambda: _sentence(f"what is the capital of the {region}", "?"),
            lambda: _sentence(f"which {self._one(['country', 'city', 'capital'])} has the {best} "
                              f"{_plural(self._one(PLACES + FOODS))}", "?"),
            lambda: _sentence(f"which country has {self._someone()} never seen", "?"),
            lambda: _sentence(f"the capital of the {region} {self._one(['is', 'was'])} {self._one(ADJECTIVES)}", "."),
            lambda: _sentence(f"is that the opposite of {self._one(['what you want', 'your answer', 'my plan'])}", "?"),
        ])()

    def number(self) -> str:
        """Digits, as in telephone numbers, or a number below a hundred behind a word."""
        if self.random.random() < 0.6:
            return " ".join(self._one([*DIGITS, "oh"]) for _ in range(self.random.randint(3, 8)))
        return f"{self._one(['enter', 'room', 'page', 'number', 'gate', 'channel'])} {self._below_hundred()}"

    def spelled(self) -> str:
        """A word or a random string, letter by letter."""
        letters = self._one(NAMES + PEOPLE + ANIMALS).replace(" ", "").lower()
        if self.random.random() < 0.3:
            letters = "".join(self.random.choices("abcdefghijklmnopqrstuvwxyz", k=self.random.randint(2, 7)))
        tail = " " + " ".join(self.random.choices(DIGITS, k=3)) if self.random.random() < 0.3 else ""
        return " ".join(letters) + tail

    def date(self) -> str:
        year = self._one([f"nineteen {self._below_hundred(20)}", f"two thousand {self._one(DIGITS[1:])}", ""])
        return f"{self._one(MONTHS).lower()} {self._one(ORDINALS)} {year}".strip()

    def command(self) -> str:
        return f"{self._one(COMMANDS)} {self._one(['', '', self._one(DIGITS), self._below_hundred()])}".strip()

    def _deed(self) -> str:
        return self._around(f"{self._someone()} {self._one(TRANSITIVE)} {self._thing()}")

    def _meal(self) -> str:
        adjective = f"{self._one(ADJECTIVES)} " if self.random.random() < 0.4 else ""
        return self._around(f"{self._someone()} {self._one(EAT)} the {adjective}{self._one(FOODS)}")

    def _stay(self) -> str:
        manner = f" {self._one(MANNERS)}" if self.random.random() < 0.5 else ""
        return self._around(f"{self._someone()} {self._one(INTRANSITIVE)}{manner}")

    def _being(self) -> str:
        what = self._one([self._the(THINGS), self._the(ANIMALS), self._someone(), self._the(PLACES), self._the(FOODS)])
        rest = self._one(["", f" and {self._one(ADJECTIVES)}", f", but not {self._one(ADJECTIVES)}"])
        degree = self._one(["very ", "too ", ""])
        return f"{what} {self._one(['is', 'was', 'looks', 'seems'])} {degree}{self._one(ADJECTIVES)}{rest}"

    def _weather(self) -> str:
        amount = self._one(["a lot of", "no", "some"])
        return f"there was {amount} {self._one(WEATHER)} {self._place()} {self._one(TIMES)}"

    def _journey(self) -> str:
        way = self._one(["by train", "by car", "by bus", "by plane", "by boat", "on foot", "with a friend"])
        where = self._one([self._one(list(COUNTRIES)), f"the {self._one(PLACES)}"])
        return f"{self._someone()} {self._one(['traveled', 'went', 'moved', 'drove', 'came back'])} to {where} {way}"

    def _speech(self) -> str:
        return f"{self._someone()} {self._one(['said', 'thought', 'knew', 'heard', 'believed'])} that {self._clause()}"

    def _plan(self) -> str:
        verb = self._one(["wants to", "has to", "will", "would like to", "plans to", "tries to"])
        deed = self._one([f"learn {self._one(SUBJECTS)}", f"buy {self._thing()}", f"visit {self._one(list(COUNTRIES))}",
                          f"cook some {self._one(FOODS)}", f"see {self._the(ANIMALS)}",
                          f"talk about {self._one(SUBJECTS)}"])
        return f"{self._the(PEOPLE)} {verb} {deed} {self._one(TIMES[6:])}"

    def _count_of(self) -> str:
        return (f"there are {self._one([*DIGITS[2:], *TEENS, self._below_hundred()])} "
                f"{_plural(self._one(ANIMALS + THINGS + PEOPLE))} {self._place()}")

    def _clause(self) -> str:
        return self._one([lambda: f"{self._the(THINGS)} was {self._one(ADJECTIVES)}",
                          lambda: f"{self._someone()} {self._one(INTRANSITIVE)}",
                          lambda: f"{self._someone()} {self._one(TRANSITIVE)} {self._thing()}",
                          lambda: f"the {self._one(WEATHER)} was {self._one(ADJECTIVES)}"])()

    def _around(self, words: str) -> str:
        return words + self._one([lambda: "", lambda: f" {self._place()}", lambda: f" {self._one(TIMES)}",
                                  lambda: f" {self._place()} {self._one(TIMES)}"])()

    def _someone(self) -> str:
        return self._one([lambda: self._one(NAMES), lambda: self._the(PEOPLE),
                          lambda: self._one(["he", "she", "we", "they", "I", "you"]),
                          lambda: f"{self._one(['my', 'your', 'his', 'her', 'our', 'their'])} {self._one(PEOPLE)}"])()

    def _thing(self) -> str:
        return self._one([lambda: self._the(THINGS), lambda: self._the(THINGS + ANIMALS), lambda: _article(
            f"{self._one(ADJECTIVES)} {self._one(THINGS)}"), lambda: _article(self._one(THINGS + ANIMALS))])()

    def _the(self, nouns: list[str]) -> str:
        adjective = f"{self._one(ADJECTIVES)} " if self.random.random() < 0.3 else ""
        return f"the {adjective}{self._one(nouns)}"

    def _place(self) -> str:
        return f"{self._one(PREPOSITIONS)} the {self._one(PLACES)}"

    def _below_hundred(self, lowest: int = 10) -> str:
        number = self.random.randint(lowest, 99)
        if number < 20:
            return TEENS[number - 10]
        return f"{TENS[number // 10 - 2]} {DIGITS[number % 10] if number % 10 else ''}".strip()

    def _one(self, choices: list[str] | list[Callable[[], str]]):
        return self.random.choice(choices)


def _sentence(words: str, end: str) -> str:
    return words[0].upper() + words[1:] + end


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _plural(noun: str) -> str:
    if noun.endswith("man"):
        return noun[:-3] + "men"
    irregular = {"mouse": "mice", "goose": "geese", "child": "children", "knife": "knives", "wolf": "wolves", "leaf":
                 "leaves", "thief": "thieves", "wife": "wives", "shelf": "shelves", "scarf": "scarves"}
    if noun in irregular:
        return irregular[noun]
    if noun in ("sheep", "deer", "newspaper"):
        return noun if noun != "newspaper" else "newspapers"
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeiou" else noun + "s"

"""The sentences of the toy world: who did what to which things, where, and when.

`Grammar(seed)` draws sentences with Zipf-skewed preferences (which verbs a person likes, which things a verb likes...):
without them no word would say anything about the next one, and there would be nothing to predict. The preferences
belong to the world and are the same for every seed. `split_of` gives every sentence its one place among train, dev and
test.
"""

import hashlib
import random
import re
from dataclasses import dataclass
from functools import cache, cached_property

import lexicon
from lexicon import NUMBERS, PLACES, PREPOSITIONS
from word_types import Adjective, Person, Place, Thing, Time, Verb

ZIPF_EXPONENT = 1.1
PERSON_EXPONENT = 0.7  # who acts is less predictable than what they do
PREPOSITION_WEIGHTS = [5, 2, 2, 2]  # in, behind, in front of, next to
MIN_WORDS, MAX_WORDS = 5, 15
DEV_PERCENT, TEST_PERCENT = 5, 5


@dataclass(frozen=True)
class Sentence:
    """One statement; `text` is its English."""

    person: Person
    character: Adjective | None
    verb: Verb
    determiner: str  # "a", "the" (one thing), or a number word (several)
    adjectives: tuple[Adjective, ...]
    thing: Thing
    place: Place | None
    time: Time | None
    order: str  # S: subject, verb, object; P: place; T: time. "SPT", "STP", "TSP" or "PST"

    @property
    def several(self) -> bool:
        return self.determiner in NUMBERS

    @property
    def subject(self) -> str:
        """`anna`, `the teacher`, `the old teacher`."""
        if self.person.is_name:
            return self.person.english
        return " ".join(["the", *([self.character.english] if self.character else []), self.person.english])

    @property
    def description(self) -> str:
        """The things without a determiner: `big red bags`."""
        noun = self.thing.plural if self.several else self.thing.english
        return " ".join([*(adjective.english for adjective in self.adjectives), noun])

    @property
    def object(self) -> str:
        """`a red bag`, `an old red bag`, `the bag`, `six red bags`."""
        determiner = "an" if self.determiner == "a" and self.description[0] in "aeiou" else self.determiner
        return f"{determiner} {self.description}"

    @cached_property
    def text(self) -> str:
        parts = {"S": f"{self.subject} {self.verb.english} {self.object}",
                 "P": self.place.english if self.place else "", "T": self.time.english if self.time else ""}
        return " ".join(parts[letter] for letter in self.order if parts[letter])


class Grammar:
    """A seeded stream of sentences."""

    def __init__(self, seed: int | str):
        self._random = random.Random(f"sentences {seed}")

    def draw(self, split: str | None = None) -> Sentence:
        """One sentence of 5 to 15 words; with `split`, one of that split."""
        while True:
            sentence = self._draw()
            if MIN_WORDS <= len(sentence.text.split()) <= MAX_WORDS and split in (None, split_of(sentence.text)):
                return sentence

    def _draw(self) -> Sentence:
        rng = self._random
        people = lexicon.PERSONS if rng.random() < 0.6 else lexicon.NAMES
        person = prefer(rng, "people", people, PERSON_EXPONENT)
        who = person.english
        character = prefer(rng, who, lexicon.CHARACTERS) if not person.is_name and rng.random() < 0.45 else None
        verb = prefer(rng, who, lexicon.VERBS)
        thing = prefer(rng, verb.english, lexicon.THINGS)
        determiner = rng.choices(["a", "the", "number"], [0.3, 0.2, 0.5])[0]
        if determiner == "number":
            determiner = prefer(rng, thing.english, list(NUMBERS))
        adjectives = []
        if rng.random() < 0.45:
            adjectives.append(prefer(rng, thing.english, lexicon.QUALITIES))
        if rng.random() < 0.35:
            adjectives.append(prefer(rng, thing.english, lexicon.COLOURS))
        place = time = None
        if rng.random() < 0.65:
            noun = prefer(rng, verb.english, [row[0] for row in lexicon.PLACE_NOUNS])
            place = PLACES[noun][rng.choices(list(PREPOSITIONS), PREPOSITION_WEIGHTS)[0]]
        if rng.random() < 0.65:
            time = prefer(rng, place.noun if place else who, lexicon.TIMES)
        order = rng.choices(["SPT", "STP", "TSP", "PST"], [0.5, 0.15, 0.25, 0.1])[0]
        return Sentence(person, character, verb, determiner, tuple(adjectives), thing, place, time, order)


def prefer(rng: random.Random, context: str, items: list, exponent: float = ZIPF_EXPONENT):
    """Draw an item; `context` decides which ones are frequent: that of rank r has a weight of r ** -exponent."""
    ranking, weights = _ranking(context, len(items), exponent)
    return items[rng.choices(ranking, weights)[0]]


@cache
def _ranking(context: str, count: int, exponent: float) -> tuple[list[int], list[float]]:
    ranking = list(range(count))
    random.Random(f"world {context} {count}").shuffle(ranking)
    return ranking, [rank ** -exponent for rank in range(1, count + 1)]


_PLACE = rf"(?:{'|'.join(PREPOSITIONS)}) the (?:{'|'.join(row[0] for row in lexicon.PLACE_NOUNS)})"
_ADVERBIAL = re.compile(rf"\b(?:{_PLACE}|{'|'.join(time.english for time in lexicon.TIMES)})\b")


def split_of(text: str) -> str:
    """Return "train", "dev" or "test": a hash of who did what, without place and time.

    All sentences that tell the same deed share a split, so no training sentence contains a dev or test sentence, is a
    reordering of one, or has its translation.
    """
    deed = " ".join(_ADVERBIAL.sub(" ", text).split())
    bucket = int.from_bytes(hashlib.sha256(deed.encode()).digest()[:4], "big") % 100
    if bucket < TEST_PERCENT:
        return "test"
    return "dev" if bucket < TEST_PERCENT + DEV_PERCENT else "train"

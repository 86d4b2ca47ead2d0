"""What kinds of words the toy world has, and what is known of each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Person:
    """A noun for a person (with an article) or a name (without)."""

    english: str
    german: str
    gender: str
    pronoun: str = ""
    is_name: bool = False

    @property
    def she_or_he(self) -> str:
        return self.pronoun or {"m": "he", "f": "she"}[self.gender]


@dataclass(frozen=True)
class Thing:
    """A countable noun."""

    english: str
    plural: str
    german: str
    german_plural: str
    gender: str


@dataclass(frozen=True)
class Adjective:
    """`stem` takes the German endings; an indeclinable adjective (`rosa`) has none."""

    english: str
    stem: str
    declines: bool = True


@dataclass(frozen=True)
class Verb:
    """English simple past and infinitive; German simple past, third person singular. All take an accusative object."""

    english: str
    infinitive: str
    german: str


@dataclass(frozen=True)
class Place:
    """A preposition and a noun; in German the preposition governs the dative."""

    preposition: str
    noun: str
    german_preposition: str
    german: str
    gender: str

    @property
    def english(self) -> str:
        return f"{self.preposition} the {self.noun}"


@dataclass(frozen=True)
class Time:
    """An adverbial of time and the one that comes after it."""

    english: str
    german: str
    later: str

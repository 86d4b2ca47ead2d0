"""German by rule: gender, case, adjective endings, the verb in second place, time before the object."""

from grammar import Sentence
from lexicon import NUMBERS
from word_types import Adjective, Place

DEFINITE = {"nominative": {"m": "der", "f": "die", "n": "das"}, "accusative": {"m": "den", "f": "die", "n": "das"},
            "dative": {"m": "dem", "f": "der", "n": "dem"}}
INDEFINITE_ACCUSATIVE = {"m": "einen", "f": "eine", "n": "ein"}
WEAK_ACCUSATIVE = {"m": "en", "f": "e", "n": "e"}  # after the definite article: den rotEN hut
MIXED_ACCUSATIVE = {"m": "en", "f": "e", "n": "es"}  # after the indefinite article: ein rotES buch
STRONG_PLURAL = "e"  # after a number: sechs rotE taschen


def translate(sentence: Sentence) -> str:
    """The one German translation of a sentence."""
    subject, verb, thing = _subject(sentence), sentence.verb.german, _object(sentence)
    place = _place(sentence.place) if sentence.place else ""
    time = sentence.time.german if sentence.time else ""
    if time and sentence.order.startswith("T"):
        words = [time, verb, subject, thing, place]
    elif place and sentence.order.startswith("P"):
        words = [place, verb, subject, time, thing]
    else:
        words = [subject, verb, time, thing, place]
    return " ".join(word for word in words if word)


def _subject(sentence: Sentence) -> str:
    person = sentence.person
    if person.is_name:
        return person.german
    character = [_inflect(sentence.character, "e")] if sentence.character else []
    return " ".join([DEFINITE["nominative"][person.gender], *character, person.german])


def _object(sentence: Sentence) -> str:
    thing = sentence.thing
    if sentence.several:
        determiner, ending, noun = NUMBERS[sentence.determiner], STRONG_PLURAL, thing.german_plural
    elif sentence.determiner == "the":
        determiner, ending = DEFINITE["accusative"][thing.gender], WEAK_ACCUSATIVE[thing.gender]
        noun = thing.german
    else:
        determiner, ending = INDEFINITE_ACCUSATIVE[thing.gender], MIXED_ACCUSATIVE[thing.gender]
        noun = thing.german
    return " ".join([determiner, *(_inflect(adjective, ending) for adjective in sentence.adjectives), noun])


def _place(place: Place) -> str:
    article = DEFINITE["dative"][place.gender]
    if (place.german_preposition, article) == ("in", "dem"):
        return f"im {place.german}"
    return f"{place.german_preposition} {article} {place.german}"


def _inflect(adjective: Adjective, ending: str) -> str:
    return adjective.stem + ending if adjective.declines else adjective.stem

"""How a story goes on after a sentence.

The speech stage of BLSP-KD learns from continuations alone, so they take up the content of the sentence: between them
the kinds below give away every slot (person, character, verb, number, adjectives, things, place, time), and each kind
reacts to something (a verb's consequence, the opposite of an adjective, the number less one, the next day...). No
continuation contains a whole sentence of the grammar: where verb and things are named again, the person is a pronoun,
and where person and verb are, the things are.
"""

import random

from grammar import Sentence, prefer
from lexicon import CHARACTERS, NAMES, NUMBERS

COUNTS = ["one", *NUMBERS]
MOODS = [adjective.english for adjective in CHARACTERS if adjective.english in ("happy", "sad", "tired", "angry")] + [
    "proud", "worried", "bored", "surprised"]
OPPOSITES = {
    "big": "small", "small": "big", "old": "new", "new": "old", "cheap": "expensive", "expensive": "cheap",
    "heavy": "small", "beautiful": "ugly", "ugly": "beautiful", "broken": "new", "dirty": "clean", "strange": "simple",
    "round": "square", "empty": "full", "red": "green", "blue": "yellow", "green": "red", "yellow": "blue",
    "black": "white", "white": "black", "brown": "gray", "gray": "brown", "golden": "silver", "pink": "black"}
CONSEQUENCES = {
    "bought": "{they} cost a lot of money", "sold": "{he} had a lot of money", "found": "{he} was lucky",
    "lost": "{he} looked everywhere", "painted": "{they} had to dry", "washed": "{they} smelled of soap",
    "carried": "{his} arms hurt", "hid": "nobody could see {them}", "broke": "{he} had to pay",
    "repaired": "{they} worked again", "brought": "{he} got a kiss", "stole": "the police came",
    "built": "{his} hands hurt", "threw": "somebody caught {them}", "forgot": "{he} had to go back",
    "counted": "{he} wrote it down", "needed": "{he} asked for help", "collected": "{his} room was full",
    "photographed": "{he} printed the photos", "admired": "{he} asked for the price", "ordered": "{he} waited for days",
    "packed": "{he} was ready to travel", "measured": "{he} knew the size", "described": "everybody understood {him}"}

KINDS = {"because": 0.25, "everybody": 0.15, "left": 0.1, "newspaper": 0.1, "consequence": 0.1, "opposite": 0.08,
         "one_less": 0.07, "later": 0.08, "gift": 0.07}


def continue_sentence(sentence: Sentence, rng: random.Random) -> str:
    """Draw one continuation of `sentence`."""
    options = [kind for kind in KINDS if _applies(kind, sentence)]
    kind = rng.choices(options, [KINDS[option] for option in options])[0]
    return " ".join(_WRITERS[kind](sentence, rng).split())


def _applies(kind: str, sentence: Sentence) -> bool:
    return {"opposite": bool(sentence.adjectives), "one_less": sentence.several,
            "later": sentence.time is not None}.get(kind, True)


def _because(sentence: Sentence, rng: random.Random) -> str:
    """`she was happy because she sold the six red bags in the park on monday`"""
    he = sentence.person.she_or_he
    mood = prefer(rng, sentence.verb.english, MOODS)
    return f"{he} was {mood} because {he} {sentence.verb.english} {_the_things(sentence)} {_where_and_when(sentence)}"


def _everybody(sentence: Sentence, rng: random.Random) -> str:
    """`everybody in the park talked about the old teacher and the six red bags on monday`"""
    place = sentence.place.english if sentence.place else ""
    time = sentence.time.english if sentence.time else ""
    return f"everybody {place} talked about {sentence.subject} and {_the_things(sentence)} {time}"


def _left(sentence: Sentence, rng: random.Random) -> str:
    """`then the old teacher left the park with the six bags`"""
    return f"then {sentence.subject} {_left_or_went_home(sentence)} with {_the_things(sentence)}"


def _newspaper(sentence: Sentence, rng: random.Random) -> str:
    """`the newspaper wrote that the old teacher sold them in the park on monday`"""
    them = "them" if sentence.several else "it"
    return f"the newspaper wrote that {sentence.subject} {sentence.verb.english} {them} {_where_and_when(sentence)}"


def _consequence(sentence: Sentence, rng: random.Random) -> str:
    """`so she had a lot of money and the teacher left the park`"""
    male = sentence.person.she_or_he == "he"
    words = {"he": "he" if male else "she", "him": "him" if male else "her", "his": "his" if male else "her",
             "they": "they" if sentence.several else "it", "them": "them" if sentence.several else "it"}
    consequence = CONSEQUENCES[sentence.verb.english].format(**words)
    return f"so {consequence} and {_the_person(sentence)} {_left_or_went_home(sentence)}"


def _opposite(sentence: Sentence, rng: random.Random) -> str:
    """`but the teacher wanted small blue ones and not big red bags`"""
    opposites = " ".join(OPPOSITES[adjective.english] for adjective in sentence.adjectives)
    if sentence.several:
        return f"but {_the_person(sentence)} wanted {opposites} ones and not {sentence.description}"
    return f"but {_the_person(sentence)} wanted the {opposites} one and not the {sentence.description}"


def _one_less(sentence: Sentence, rng: random.Random) -> str:
    """`but the next day only five of the six red bags were there`"""
    rest = COUNTS[COUNTS.index(sentence.determiner) - 1] if sentence.determiner != "twenty" else "ten"
    was = "was" if rest == "one" else "were"
    place = sentence.place.english if sentence.place else "there"
    return f"but the next day only {rest} of {_the_things(sentence)} {was} {place}"


def _later(sentence: Sentence, rng: random.Random) -> str:
    """`and on tuesday the teacher came back to the park for more bags`"""
    place = f"to the {sentence.place.noun}" if sentence.place else ""
    later = sentence.time.later
    came = "will come" if later.split()[0] in ("today", "tomorrow", "this") else "came"
    return f"and {later} {_the_person(sentence)} {came} back {place} for more {sentence.thing.plural}"


def _gift(sentence: Sentence, rng: random.Random) -> str:
    """`the six red bags were a gift for peter`"""
    friend = prefer(rng, f"friend {sentence.person.english}", [p for p in NAMES if p != sentence.person]).english
    were = "were" if sentence.several else "was"
    return f"{_the_things(sentence)} {were} a gift for {friend} from {_the_person(sentence)}"


def _the_person(sentence: Sentence) -> str:
    return sentence.person.english if sentence.person.is_name else f"the {sentence.person.english}"


def _the_things(sentence: Sentence) -> str:
    return f"the {sentence.determiner if sentence.several else ''} {sentence.description}"


def _left_or_went_home(sentence: Sentence) -> str:
    return f"left the {sentence.place.noun}" if sentence.place else "went home"


def _where_and_when(sentence: Sentence) -> str:
    return " ".join(part.english for part in (sentence.place, sentence.time) if part)


_WRITERS = {"because": _because, "everybody": _everybody, "left": _left, "newspaper": _newspaper,
            "consequence": _consequence, "opposite": _opposite, "one_less": _one_less, "later": _later, "gift": _gift}

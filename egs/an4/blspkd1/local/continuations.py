"""How a caller goes on: what the speech stage of BLSP-KD learns from.

Together the kinds give away every word of the sentence and its place, each with something added or changed; none
answers an instruction of tasks.py, and none holds the whole sentence in one piece.
"""

import random

from lexicon import LETTERS, MONTHS, ONES, ORDINALS, TEENS, TENS

ROWS = [[*LETTERS, "a"], ["zero", *ONES, *TEENS, "twenty"], [*TENS, "hundred"], [*ORDINALS], [*MONTHS, MONTHS[0]],
        ["oh", "one"]]
NEXT = {word: after for row in ROWS for word, after in zip(row, row[1:], strict=False)}
OTHERS = [*LETTERS, *ONES]


def continue_text(text: str, rng: random.Random) -> str:
    """Draw one continuation of `text`."""
    words = text.split()
    kinds = {_again: 0.2, _after: 0.4, _not_but: 0.25, _next: 0.15} if len(words) > 3 else {_again: 0.5, _next: 0.5}
    return rng.choices(list(kinds), list(kinds.values()))[0](words, rng)


def _again(words: list[str], rng: random.Random) -> str:
    """`again seven four`: some last words"""
    return "again " + " ".join(words[-rng.randint(1, min(5, max(1, len(words) - 1))):])


def _after(words: list[str], rng: random.Random) -> str:
    """`after k l m u come five two seven four`: both parts of the sentence, cut at any place"""
    cut = rng.randint(1, len(words) - 1)
    return f"after {' '.join(words[:cut])} come {' '.join(words[cut:])}"


def _not_but(words: list[str], rng: random.Random) -> str:
    """`not l m u but l x u`: a piece with one word changed"""
    size = rng.randint(2, min(5, len(words) - 1))
    start = rng.randint(0, len(words) - size)
    piece = words[start:start + size]
    changed = list(piece)
    changed[rng.randrange(size)] = rng.choice(OTHERS)
    return f"not {' '.join(piece)} but {' '.join(changed)}"


def _next(words: list[str], rng: random.Random) -> str:
    """`then eight five`: what follows some last words in the alphabet, in counting or in the year"""
    last = words[-rng.randint(1, min(4, max(1, len(words) - 1))):]
    return "then " + " ".join(NEXT.get(word, word) for word in last)

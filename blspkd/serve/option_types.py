"""Numbers that options of a command can be, for argparse: others end it with status 2, before anything is loaded."""

import argparse
import math
from collections.abc import Callable


def number(kind: type[int] | type[float], fits: Callable[[float], bool], meaning: str) -> Callable[[str], float]:
    """A type for argparse: an int or float that `fits`; meaning: what it has to be, for the message."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan  # fits nothing
        if not fits(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {meaning}")
        return value

    return read


count = number(int, lambda value: value >= 1, "a whole number of at least 1")
index = number(int, lambda value: value >= 0, "a whole number of at least 0")
positive = number(float, lambda value: 0 < value < math.inf, "a number above 0")
chunk_seconds = number(float, lambda value: 1 <= value < math.inf, "a number of seconds from 1 on")  # audio.chunks
temperature = number(float, lambda value: 0 <= value < math.inf, "a number of at least 0")
share = number(float, lambda value: 0 < value <= 1, "a number above 0 and at most 1")

"""The instructions that the recipe's LLM knows, and their answers by rule."""

from lexicon import GERMAN, LETTERS, ONES, ORDINALS, TEENS, TENS, ZEROS

INSTRUCTIONS = {
    "repeat": "Repeat the following text.",
    "digits": "Write the numbers as digits.",
    "backwards": "Say it backwards.",
    "letters": "How many letters are spelled?",
    "german": "Translate the following text into German.",
    "first": "What is the first word?",
    "last": "What is the last word?"}


def answer(task: str, text: str) -> str:
    """What the LLM is to say to INSTRUCTIONS[task] about `text` (lower case)."""
    words = text.split()
    return {"repeat": lambda: text, "digits": lambda: digits(words), "backwards": lambda: " ".join(reversed(words)),
            "letters": lambda: str(sum(word in LETTERS for word in words)), "german": lambda: german(words),
            "first": lambda: words[0], "last": lambda: words[-1]}[task]()


def digits(words: list[str]) -> str:
    """`enter seventy eight oh one june twenty third` -> `enter 78 0 1 june 23rd`; `two thousand and six` -> `2006`."""
    written, place = [], 0
    while place < len(words):
        number, size = _number(words[place:])
        written.append(number if size else words[place])
        place += size or 1
    return " ".join(written)


def german(words: list[str]) -> str:
    """Word by word, but `seventy eight` -> `acht und siebzig`; letters and unknown words stay as they are."""
    written, place = [], 0
    while place < len(words):
        word, following = words[place], words[place + 1:place + 2]
        if word in TENS and following and (following[0] in ONES or ORDINALS.get(following[0], 10) < 10):
            written += [GERMAN[following[0]], "und", GERMAN[word]]
            place += 2
        else:
            written.append(GERMAN.get(word, word))
            place += 1
    return " ".join(written)


def _number(words: list[str]) -> tuple[str, int]:
    """The number that `words` begin with, in digits, and how many words it takes; ("", 0) without one."""
    if words[0] in ZEROS:
        return "0", 1
    value, size = _below_hundred(words)
    if not size:
        return _ordinal(words, 0, 0)
    if words[size:size + 1] == ["thousand"]:
        rest, more = _hundreds(words[size + 1:])
        return str(1000 * value + rest), size + 1 + more
    if words[size:size + 1] == ["hundred"]:
        rest, more = _hundreds(words)
        return str(rest), more
    if words[0] in TENS and size == 1:
        ordinal = _ordinal(words[1:], value, 1)
        if ordinal[1]:
            return ordinal
    return str(value), size


def _hundreds(words: list[str]) -> tuple[int, int]:
    """`three hundred and eighty six`, `and six`, or nothing: value below 1000 and number of words."""
    value, size = 0, 0
    if words[:1] and words[0] in ONES and words[1:2] == ["hundred"]:
        value, size = 100 * ONES[words[0]], 2
    joined = size + (words[size:size + 1] == ["and"])
    small, more = _below_hundred(words[joined:])
    return (value + small, joined + more) if more else (value, size)


def _below_hundred(words: list[str]) -> tuple[int, int]:
    if not words:
        return 0, 0
    if words[0] in TENS:
        one = ONES.get(words[1], 0) if len(words) > 1 else 0
        return TENS[words[0]] + one, 2 if one else 1
    value = ONES.get(words[0]) or TEENS.get(words[0])
    return (value, 1) if value else (0, 0)


def _ordinal(words: list[str], tens: int, size: int) -> tuple[str, int]:
    value = ORDINALS.get(words[0]) if words else None
    if value is None or (tens and value > 9):
        return "", 0
    ending = {1: "st", 2: "nd", 3: "rd"}.get(value, "th")
    return f"{tens + value}{ending}", size + 1

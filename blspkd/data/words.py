"""Texts as words: how transcripts are compared, and how their tokens are counted."""

import re
import unicodedata
from collections.abc import Iterator

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]|"
                   r"[^\s\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")


def split_words(text: str) -> list[str]:
    """The words of a text, each CJK character being one."""
    return _WORD.findall(text)


def count_tokens(texts: list[str], llm: str = "") -> Iterator[int]:
    """Tokens of each text: those of the tokenizer of `llm`, or words, each CJK character being one."""
    if not llm:
        yield from (len(split_words(text)) for text in texts)
        return
    from blspkd.data.control_tokens import read_texts  # takes seconds to import
    from blspkd.data.prompts import load_tokenizer

    tokenizer = load_tokenizer(llm)
    for first in range(0, len(texts), 1000):
        yield from map(len, read_texts(tokenizer, texts[first:first + 1000]))


def words(text: str) -> str:
    """`text` as it is compared: "Don't,  STOP!" -> "dont stop"; "" if there is neither a letter nor a digit."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_LETTERS).split())


class _Letters(dict):
    """For str.translate: letters, digits and the marks upon them stay, apostrophes go, all else becomes a space."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if unicodedata.category(character)[0] not in "LNM":
            character = "" if character in "'\u2019\u02bc`" else " "
        return self.setdefault(code, character)


_LETTERS = _Letters()

"""Pieces of text while tokens are written: never half a character, and together the whole.

A character may take several tokens, a stop text too; white space at the end may turn out to be the reply's last. All
of these are held back until it is certain that they are text of the reply.
"""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_HALF = "\ufffd"  # what decoders write for bytes that are no character yet
_WINDOW = 16  # tokens in front of the new ones that are decoded with them: a decoder may look back, but not that far,
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # except for these (byte fallback), of which it reads a run as a whole


class TextPieces:
    """One reply, as far as it is written."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()):
        """stop: texts that end the reply where they begin."""
        self.tokenizer = tokenizer
        self.stop = [text for text in stop if text]
        self.ids: list[int] = []
        self.stopped = False
        self.text = ""  # certain, and told
        self._read = ""  # decoded, white space in front removed
        self._pending = 0  # index of the first token that is not in `_read`

    def add(self, token: int) -> str:
        """A further token; returns the text that has become certain, mostly a word."""
        if self.stopped:
            return ""
        self.ids.append(token)
        further = self._further()
        if further.endswith(_HALF):
            return ""
        self._read = (self._read + further).lstrip()
        self._pending = len(self.ids)
        return self._tell(self._read[:len(self._read) - self._uncertain()].rstrip())

    def finish(self) -> str:
        """The reply is complete; returns what was held back and is text."""
        if not self.stopped:
            self._read = (self._read + self._further()).lstrip()
        return self._tell(self._read.rstrip())

    def _further(self) -> str:
        """Text of the tokens that are not in `_read`."""
        start = max(0, self._pending - _WINDOW)
        while start and self._is_byte(start) and self._is_byte(start - 1):
            start -= 1
        return self._decode(self.ids[start:])[len(self._decode(self.ids[start:self._pending])):]

    def _is_byte(self, place: int) -> bool:
        return bool(_BYTE.fullmatch(self.tokenizer.convert_ids_to_tokens(self.ids[place]) or ""))

    def _tell(self, certain: str) -> str:
        """certain: the front of `_read`, which begins with what was told; both end before a stop text."""
        places = [place for text in self.stop if (place := self._read.find(text)) >= 0]
        if places:
            self.stopped = True
            certain = self._read = self._read[:min(places)].rstrip()
        piece = certain[len(self.text):]
        self.text += piece
        return piece

    def _uncertain(self) -> int:
        """Characters at the end that may be the beginning of a stop text."""
        return max((size for text in self.stop for size in range(1, len(text)) if self._read.endswith(text[:size])),
                   default=0)

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

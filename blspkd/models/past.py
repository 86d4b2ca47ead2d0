"""Keys and values of what an LLM has read in a conversation, so that a further turn costs only what is new in it.

What is read is known by its contents: a text token by its id, a speech token by a digest of its numbers. So a
conversation may be changed, cut or begun anew at any time: what the two have in common at the front is used, and only
that.
"""

import hashlib
import weakref
from collections.abc import Sequence
from itertools import takewhile

from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer


class Past:
    """The last conversation that was read with it, by one model. Not for several threads at once."""

    def __init__(self):
        self._reader: weakref.ref | None = None  # the model that has read it
        self._cache: Cache | None = None
        self._read: list[int | bytes] = []  # what each position of the cache has read

    def resume(self, reader: object, pieces: Sequence[list[int] | Tensor]) -> tuple[Cache | None, int]:
        """The cache, cut to what it has in common with a prompt, and how many positions those are.

        reader: who reads; another one's keys and values are of no use. At least the prompt's last position is left to
        be read. None, 0 where nothing is in common.
        """
        cache, self._cache = self._cache, None  # until `keep`: a generation that fails leaves nothing behind
        wanted = _contents(pieces)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._read, wanted[:-1], strict=False)))
        if cache is None or not common or self._reader is None or self._reader() is not reader:
            return None, 0
        if (beyond := cache.get_seq_length() - common) > 0:
            cache.crop(-beyond)
        return cache, common

    def keep(self, reader: object, cache: Cache | None, pieces: Sequence[list[int] | Tensor], reply: Sequence[int]
             ) -> None:
        """Remember a cache that has read a prompt and its reply (but for the last token, which nothing followed)."""
        if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
            return  # a sliding window or a state, which cannot be cut back
        self._read = [*_contents(pieces), *reply][:cache.get_seq_length()]
        self._cache, self._reader = cache, weakref.ref(reader)


def _contents(pieces: Sequence[list[int] | Tensor]) -> list[int | bytes]:
    contents: list[int | bytes] = []
    for piece in pieces:
        if isinstance(piece, Tensor):
            contents += [hashlib.sha256(row.tobytes()).digest() for row in piece.float().cpu().numpy()]
        else:
            contents += piece
    return contents

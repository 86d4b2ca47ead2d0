"""Which texts share a word 5-gram with another one: the others can be near-duplicates of none.

Each text's 5-grams are kept as digests of 8 bytes, on disk, and compared a part of them at a time: of a million texts,
only those that share one have to be looked at together.
"""

from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

import numpy as np

from blspkd.data.near_duplicates import grams

PART = 8 << 20  # digests that are compared at a time, 64 MiB


def save(file: Path, texts: Iterable[str]) -> None:
    """Write the digests of texts to an `.npz` file."""
    digests, counts = [], []
    for text in texts:
        found = grams(text)
        counts.append(len(found))
        digests += [blake2b(" ".join(gram).encode(), digest_size=8).digest() for gram in found]
    np.savez(file, digests=np.frombuffer(b"".join(digests) or bytes(8), dtype=np.uint64)[:len(digests)],
             counts=np.array(counts, dtype=np.int32))


def sharing(files: list[Path]) -> list[np.ndarray]:
    """For each file a bool for each of its texts [N]: whether another text, of any file, has one of its grams."""
    marks, total = [], 0
    for file in files:
        with np.load(file) as saved:
            marks.append(np.zeros(len(saved["counts"]), dtype=bool))
            total += len(saved["digests"])
    parts = max(1, -(-total // PART))
    for part in range(parts):
        several = _several(_part(file, part, parts)[0] for file in files)
        for file, mark in zip(files, marks, strict=True):
            digests, owners = _part(file, part, parts)
            mark[owners[np.isin(digests, several)]] = True
    return marks


def _part(file: Path, part: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """The digests of a part, and the number of the text of each."""
    with np.load(file) as saved:
        chosen = saved["digests"] % np.uint64(parts) == part
        return saved["digests"][chosen], np.repeat(np.arange(len(saved["counts"])), saved["counts"])[chosen]


def _several(digests: Iterable[np.ndarray]) -> np.ndarray:
    """Those that occur more than once."""
    values, counts = np.unique(np.concatenate(list(digests)), return_counts=True)
    return values[counts > 1]

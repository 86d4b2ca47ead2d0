"""A data directory put together from pieces that follow one another, line by line: nothing is kept in memory.

Lines by utterance stand one piece behind the other. What belongs to a recording or a speaker may be in several pieces,
and stands in the whole once; a speaker's utterances in `spk2utt` are put together.
"""

import heapq
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

from blspkd.files import atomic_path, scratch_folder
from blspkd.kaldi.continuation_info import combined_info, write_info
from blspkd.kaldi.files import INFO, Follows
from blspkd.kaldi.pieces import key_of

_OPEN = 200  # files at a time


def join_directories(folders: list[Path], destination: Path, kinds: Mapping[str, Follows]) -> None:
    """Write the tables of `folders`, which follow one another, to the folder `destination`.

    kinds: what the lines of each table belong to.
    """
    for name in sorted({file.name for folder in folders for file in folder.iterdir()}):
        kind = kinds.get(name, Follows.SPEAKERS if name == "spk2utt" else Follows.NOTHING)
        files = [folder / name for folder in folders if (folder / name).is_file()]
        if kind is Follows.UTTERANCES:
            join(folders, destination, name)
        elif kind in (Follows.RECORDINGS, Follows.SPEAKERS):
            with scratch_folder(destination / name) as scratch:
                _merge(files, destination / name, scratch, together=name == "spk2utt")
        elif name == INFO:
            write_info(destination / name, combined_info(folders))
        else:
            shutil.copyfile(files[0], destination / name)


def join(folders: Iterable[Path], destination: Path, name: str) -> None:
    """The tables `name` of folders, one behind the other."""
    with atomic_path(destination / name) as temporary, open(temporary, "wb") as table:
        for folder in folders:
            if (folder / name).is_file():
                with open(folder / name, "rb") as piece:
                    shutil.copyfileobj(piece, table, 1 << 20)


def _merge(files: list[Path], destination: Path, scratch: Path, together: bool) -> None:
    """Write the lines of sorted tables, sorted: those of a key are those of the first table that has it.

    together: they are one line instead, with what all say of it.
    """
    while len(files) > _OPEN:
        merged = [scratch / f"{len(files)}-{start}" for start in range(0, len(files), _OPEN)]
        for start, file in zip(range(0, len(files), _OPEN), merged, strict=True):
            _merge(files[start:start + _OPEN], file, scratch, together)
        files = merged
    with ExitStack() as stack, open(destination, "wb") as table:
        tables = [_numbered(number, stack.enter_context(open(file, "rb"))) for number, file in enumerate(files)]
        for key, rows in groupby(heapq.merge(*tables), key=lambda row: row[0]):
            if together:
                table.write(b" ".join([key, *(row[3].split(None, 1)[1].strip() for row in rows)]) + b"\n")
                continue
            first = None
            for _, number, _, line in rows:
                first = number if first is None else first
                if number == first:
                    table.write(line)


def _numbered(number: int, lines: Iterable[bytes]) -> Iterator[tuple[bytes, int, int, bytes]]:
    return ((key_of(line), number, place, line) for place, line in enumerate(lines))

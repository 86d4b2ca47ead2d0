"""A large data directory in pieces: neighbouring utterances that make a small data directory, wherever they are needed.

Tables are sorted by the ids' bytes, so that the lines of a piece are one stretch of each, found by bisection: what a
process holds in memory does not grow with the directory. Pieces are always cut in the same way. So what is made of
them does not depend on how many processes share them: each claims the next one (`leases`), as in stage 2, and the last
call of a verb, or the only one, does what is missing and puts the results together.

Where a recording has several utterances (`segments`), a piece has the lines of its recordings.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import sleep
from types import MappingProxyType

from blspkd.errors import DataError
from blspkd.files import json_digest, read_json, scratch_folder, write_json
from blspkd.kaldi.files import INFO, Follows, data_files, follows
from blspkd.kaldi.leases import PATIENCE, Leases, share
from blspkd.kaldi.tables import remedy_command

SIZE = 100_000  # utterances of a piece
FOLDER = ".pieces"  # in the data directory, while a verb works on it
_DONE = "done.json"  # of a piece, written last
_PER_FOLDER = 500
_AHEAD = 64  # lines that are read before the next one is looked for by bisection


@dataclass(frozen=True)
class Share:
    """Which of the processes that work on a directory this is: job 1 ... num_jobs, or the last call of all (None)."""

    job: int | None = None
    num_jobs: int = 1
    size: int = SIZE  # utterances of a piece


class Pieces:
    """The pieces of a data directory that is in order; a small one is a single piece."""

    def __init__(self, path: str | os.PathLike, size: int = SIZE):
        self.path = Path(path)
        self.size = size
        self._starts: list[bytes] = []  # first utterance of each
        self._sorted: set[Path] = set()  # the tables that are known to be
        if not (self.path / "utt2spk").is_file():
            self._starts.append(b"")  # whoever reads it says so
            return
        with open(self.path / "utt2spk", "rb") as lines:
            for number, line in enumerate(lines):
                if number % size == 0:
                    self._starts.append(key_of(line))
        self._starts[:1] = [b""]  # what stands before the first one is in the first piece

    def __len__(self) -> int:
        return len(self._starts)

    def bounds(self, index: int) -> tuple[bytes, bytes | None]:
        """First utterance of a piece, and that of the next one."""
        return self._starts[index], (self._starts[index + 1] if index + 1 < len(self) else None)

    def stretch(self, file: Path, index: int) -> tuple[int, int]:
        """Where the lines of a piece begin and end in a table by utterance, in bytes."""
        first, end = self.bounds(index)
        with open(file, "rb") as table:
            size = os.fstat(table.fileno()).st_size
            return find(table, first, size) if first else 0, size if end is None else find(table, end, size)

    @contextmanager
    def opened(self, index: int, more: Mapping[str, Path] = MappingProxyType({})) -> Iterator[Path]:
        """A piece as a data directory, for this block. Errors name the whole directory.

        more: tables by utterance from elsewhere, by the names that they have there.
        """
        if len(self) == 1:
            yield self.path
            return
        kinds = self.kinds()
        self._check_sorted([*(file for file, kind in kinds.items()
                              if kind is not Follows.NOTHING and file.name != "spk2utt"), *more.values()])
        with scratch_folder(self.path / FOLDER / f"piece-{index + 1}") as folder:  # other verbs may have theirs
            try:
                self._write(index, folder, kinds, more)
                yield folder
            except DataError as error:
                raise type(error)(f"{str(error).replace(str(folder), str(self.path))}\n(line numbers count from the "
                                  "first line of a piece; the verb validate tells those of the file)") from None

    def kinds(self) -> dict[Path, Follows]:
        """What the lines of each file belong to; recordings without segments are utterances."""
        utterances, recordings, speakers = (_Keys(self.path / name) for name in ("utt2spk", "wav.scp", "spk2utt"))
        kinds = {file: follows(file, utterances, recordings, speakers) for file in data_files(self.path)}
        if not (self.path / "segments").exists():
            kinds = {file: Follows.UTTERANCES if kind is Follows.RECORDINGS else kind for file, kind in kinds.items()}
        return kinds

    def _check_sorted(self, files: list[Path]) -> None:
        """Raise DataError for a table that is not sorted: bisection would lose lines of it."""
        for file in files:
            previous = b""
            if file in self._sorted:
                continue
            with open(file, "rb") as lines:
                for number, line in enumerate(lines, 1):
                    key = key_of(line)
                    if key < previous and key:
                        names = (name.decode(errors="backslashreplace") for name in (key, previous))
                        raise DataError(f"{file}:{number}: {' stands after '.join(names)} (order of bytes, LC_ALL=C); "
                                        "a large directory is worked on in pieces, for which its tables have to be "
                                        f"sorted: `{remedy_command('fix_data_dir.sh', self.path)}`")
                    previous = key or previous
            self._sorted.add(file)

    def _write(self, index: int, folder: Path, kinds: Mapping[Path, Follows], more: Mapping[str, Path]) -> None:
        hidden = [file for file in self.path.glob(".utt2*") if file.is_file() and ".tmp-" not in file.name]
        for file in [*(file for file, kind in kinds.items() if kind is Follows.UTTERANCES), *hidden]:
            copy_stretch(file, *self.stretch(file, index), folder / file.name)
        for name, file in more.items():
            copy_stretch(file, *self.stretch(file, index), folder / name)
        wanted = {Follows.SPEAKERS: _second_fields(folder / "utt2spk")}
        if (self.path / "segments").exists():
            wanted[Follows.RECORDINGS] = _second_fields(folder / "segments")
        for file, kind in kinds.items():
            if kind in wanted and file.name != "spk2utt":
                with open(folder / file.name, "wb") as lines:
                    lines.writelines(lines_of(file, wanted[kind]))
            elif file.name == INFO:  # what else belongs to the whole may be large, and says nothing of a piece
                shutil.copyfile(file, folder / file.name)


@contextmanager
def results(pieces: Pieces, name: str, made_from: object, do: Callable[[int, Path], None], share_: Share,
            written: Iterable[str] = ()) -> Iterator[list[Path] | None]:
    """`do` every piece that nobody has done; yields the folders with what it wrote, or None for one of several jobs.

    What is kept is removed when the block of the last call ends without an error: the verb is done.

    do:        gets the number of a piece and a folder to write into.
    made_from: what else decides what it writes. written: files of the directory that the verb itself writes.
    """
    folder = pieces.path / FOLDER / name
    fingerprint = _fingerprint(pieces, made_from, written)
    places = [folder / f"{index // _PER_FOLDER:03d}" / f"{index + 1:06d}-of-{len(pieces):06d}"
              for index in range(len(pieces))]

    def is_done(index: int) -> bool:
        return read_json(places[index] / _DONE).get("fingerprint") == fingerprint

    def work(index: int, lease) -> None:
        with scratch_folder(places[index]) as temporary:
            do(index, temporary)
            write_json(temporary / _DONE, {"fingerprint": fingerprint})
            if lease.is_ours():  # else this process stood still, and another one has taken it over
                shutil.rmtree(places[index], ignore_errors=True)
                os.replace(temporary, places[index])

    first = len(pieces) * ((share_.job or 1) - 1) // max(1, share_.num_jobs) % len(pieces)
    names = [str(place.relative_to(folder)) for place in places]
    if share_.job is not None:
        share(names, Leases(folder / "leases"), is_done, work, first)
        yield None
        return
    with _alone(pieces.path / FOLDER, name):
        share(names, Leases(folder / "leases"), is_done, work, first)
        if _fingerprint(pieces, made_from, written) != fingerprint:
            raise DataError(f"{pieces.path}: its tables have changed while they were read; start the same "
                            "command again")
        yield places
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # another verb works there
        (pieces.path / FOLDER).rmdir()


def _fingerprint(pieces: Pieces, made_from: object, written: Iterable[str]) -> str:
    tables = [(file.name, status.st_size, status.st_mtime_ns) for file in data_files(pieces.path)
              if file.name not in written for status in [file.stat()]]
    return json_digest([made_from, pieces.size, tables])


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """In this block no other last call of the verb works on the directory: it would remove what this one reads."""
    leases = Leases(folder)
    while (lease := leases.take(name)) is None:
        sleep(PATIENCE)
    try:
        with leases.kept_alive(lease):
            yield
    finally:
        lease.finish()


def key_of(line: bytes) -> bytes:
    """What stands first in a line; nothing if it is blank."""
    return b"".join(line.split(None, 1)[:1])


def find(table, key: bytes, size: int) -> int:
    """Where the first line begins whose key is `key` or comes after it, in a sorted file of `size` bytes."""
    low, high = 0, size  # the answer is among the beginnings of lines from low to high
    while low < high:
        middle = (low + high) // 2
        table.seek(middle)
        if middle:
            table.seek(middle - 1)
            table.readline()
        begin = place = table.tell()
        line = table.readline()
        while line and not line.strip():  # a blank line says nothing
            place += len(line)
            line = table.readline()
        if begin >= high or not line:
            high = middle
        elif key_of(line) < key:
            low = place + len(line)
        else:
            high = middle
    return low if low >= size else line_begin(table, low)


def line_begin(table, place: int) -> int:
    """Where the first line begins that does not begin before `place`."""
    if not place:
        return 0
    table.seek(place - 1)
    return place - 1 + len(table.readline())


def copy_stretch(file: Path, begin: int, end: int, destination: Path) -> None:
    """Write bytes `begin` to `end` of a file to another one."""
    with open(file, "rb") as source, open(destination, "wb") as copy:
        source.seek(begin)
        while begin < end and (block := source.read(min(1 << 20, end - begin))):
            copy.write(block)
            begin += len(block)
        if end and block_lacks_end(source, end):
            copy.write(b"\n")


def block_lacks_end(source, end: int) -> bool:
    """Whether the file ends at `end`, in the middle of a line."""
    source.seek(end - 1)
    return source.read(1) != b"\n"


def lines_of(file: Path, keys: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a sorted table with these keys, which are sorted."""
    with open(file, "rb") as table:
        size = os.fstat(table.fileno()).st_size
        for key in keys:
            place = table.tell()
            for line in islice(table, _AHEAD):
                found = key_of(line)
                if found >= key:
                    break
                place += len(line)
            else:
                place = find(table, key, size)
            table.seek(place)
            line = table.readline()
            while line and key_of(line) == key:
                yield line if line.endswith(b"\n") else line + b"\n"
                place += len(line)
                line = table.readline()
            table.seek(place)


class _Keys:
    """Whether a sorted table has a key; looked for by bisection."""

    def __init__(self, file: Path):
        self.file = file

    def __contains__(self, key: bytes) -> bool:
        return self.file.is_file() and any(lines_of(self.file, [key]))


def _second_fields(file: Path) -> list[bytes]:
    with open(file, "rb") as lines:
        return sorted({fields[1] for line in lines if len(fields := line.split(None, 2)) > 1})

"""The transcripts of a data directory, read where they are needed: in memory is one number for some lines of `text`."""

import random
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from blspkd.errors import DataError
from blspkd.kaldi.data_dir import KaldiDir
from blspkd.kaldi.tables import open_table, scan, scan_lines

Row = tuple[str, str]  # utterance, transcript
STRIDE = 64  # lines from one whose place is known to the next


class Transcripts(Sequence[Row]):
    """(utterance, transcript) of a data directory, in its order: all of them, or a sample."""

    def __init__(self, data_dir: Path, places: array, size: int, chosen: np.ndarray | None = None):
        self.path = Path(data_dir) / "text"
        self._places = places  # of every STRIDE-th line in the file, in bytes
        self._size = size
        self._chosen = chosen  # the numbers of the lines, where these are not all, rising

    @classmethod
    def read(cls, data_dir: Path) -> "Transcripts":
        """Raises DataError as `KaldiDir.read` does, for what is wrong with `text` and `utt2spk`."""
        data_dir = Path(data_dir)
        wrong: list[str] = []

        def ids(name: str) -> Iterator[str]:
            previous = ""
            for _, key, _ in scan_lines(data_dir / name, lambda *problem: wrong.append(name)):
                if key == previous:
                    wrong.append(name)
                previous = key
                yield key

        size, others = 0, iter(())
        if (data_dir / "text").is_file() and (data_dir / "utt2spk").is_file():
            others = ids("utt2spk")
            for utt_id in ids("text"):
                if wrong or next(others, None) != utt_id:
                    break
                size += 1
            else:
                if size and next(others, None) is None and not wrong:
                    return cls(data_dir, _places(data_dir / "text"), size)
        KaldiDir.read(data_dir, need_audio=False)  # tells what is wrong
        raise DataError(f"{data_dir}: text and utt2spk have changed while they were read; start again")

    def __len__(self) -> int:
        return self._size if self._chosen is None else len(self._chosen)

    def __getitem__(self, place):
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            return list(self._rows(start, stop))[::step]
        [row] = self._rows(range(len(self))[place], range(len(self))[place] + 1)
        return row

    def __iter__(self) -> Iterator[Row]:
        return self._rows(0, len(self))

    def sample(self, number: int, seed: int) -> "Transcripts":
        """`number` of them, drawn as `kaldi.sampling.sample` draws; all where that is 0 or too many."""
        if not 0 < number < len(self):
            return self
        chosen = np.sort(np.array(random.Random(seed).sample(range(len(self)), number)))
        return Transcripts(self.path.parent, self._places, self._size, chosen)

    def _rows(self, start: int, stop: int) -> Iterator[Row]:
        if start >= stop:
            return
        numbers = range(start, stop) if self._chosen is None else self._chosen[start:stop].tolist()
        with open_table(self.path) as file:
            here = -STRIDE  # number of the line that comes next
            for number in numbers:
                if number - here >= STRIDE:
                    file.seek(self._places[number // STRIDE])
                    here = number // STRIDE * STRIDE
                line = next(islice(file, number - here, None), b"")
                here = number + 1
                for _, key, value in scan([line], _refuse):
                    yield key, value


def as_rows(transcripts: Mapping[str, str] | Sequence[Row]) -> Sequence[Row]:
    """The same for a table that is in memory."""
    return list(transcripts.items()) if isinstance(transcripts, Mapping) else transcripts


def written_for(transcripts: Sequence[Row], generation: Mapping[str, object]) -> Sequence[Row]:
    """Those that stage 2 writes continuations for, by its options (`generation` of continuation.info.json)."""
    number, seed = generation.get("max_utterances", 0), generation.get("seed", 0)
    if isinstance(transcripts, Transcripts):
        return transcripts.sample(number, seed)
    if not 0 < number < len(transcripts):
        return transcripts
    return [transcripts[index] for index in sorted(random.Random(seed).sample(range(len(transcripts)), number))]


def _places(path: Path) -> array:
    places, place = array("q"), 0
    with open(path, "rb") as file:
        for number, line in enumerate(file):
            if number % STRIDE == 0:
                places.append(place)
            place += len(line)
    return places


def _refuse(kind: str, number: int, what: str) -> None:
    raise DataError(f"text: {what}: it has changed since it was checked; start again")

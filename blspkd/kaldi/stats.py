"""Figures of a data directory, of a large one put together from those of its pieces.

How many different words, speakers and recordings there are is counted by digests of 8 bytes; the durations are kept as
8 bytes, too, for their median.
"""

import math
import os
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from blspkd.files import read_json, write_json
from blspkd.kaldi.data_dir import read_audio, read_seconds, read_speakers, read_texts
from blspkd.kaldi.files import SEVERAL_LINES, Follows, data_files, known_file
from blspkd.kaldi.pieces import Pieces, Share, results
from blspkd.kaldi.tables import read_table
from blspkd.kaldi.word_times import read_word_times

NAME = "stats"


@dataclass(frozen=True)
class Stats:
    """Figures of a data directory; the durations (seconds) are None without a complete utt2dur."""

    utterances: int
    speakers: int
    recordings: int
    words: int
    distinct_words: int
    characters: int
    total_duration: float | None
    min_duration: float | None
    median_duration: float | None
    max_duration: float | None
    files: dict[str, int]  # further tables by utterance, and how many utterances they cover

    def __str__(self) -> str:
        rows = [("utterances", self.utterances), ("speakers", self.speakers), ("recordings", self.recordings),
                ("words", self.words), ("distinct words", self.distinct_words), ("characters", self.characters)]
        if self.total_duration is None:
            rows.append(("hours", "unknown, run the verb durations"))
        else:
            rows += [("hours", f"{self.total_duration / 3600:.2f}"), ("shortest", f"{self.min_duration:.2f} s"),
                     ("median", f"{self.median_duration:.2f} s"), ("longest", f"{self.max_duration:.2f} s")]
        rows += [(name, f"{count} utterances") for name, count in self.files.items()]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def stats(path: str | os.PathLike, share: Share | None = None) -> Stats | None:
    """Figures of data directory `path`; words are what blanks separate. Raises DataError if it is not valid.

    None for one of several jobs (`share`), which has done its part.
    """
    path, share = Path(path), share or Share()
    pieces = Pieces(path, share.size)
    if len(pieces) == 1:
        return _put_together([_Figures.of(path)]) if share.job is None else None

    def do(index: int, folder: Path) -> None:
        with pieces.opened(index) as piece:
            _Figures.of(piece).save(folder)

    with results(pieces, NAME, "", do, share) as folders:
        return None if folders is None else _put_together(map(_Figures.load, folders))


@dataclass(frozen=True)
class _Figures:
    """Those of a piece that can be added."""

    counts: dict[str, int]
    files: dict[str, int]
    different: dict[str, np.ndarray]  # digests, sorted: speakers, recordings, words
    seconds: np.ndarray  # float64 [utterances that have one]

    @classmethod
    def of(cls, path: Path) -> "_Figures":
        speakers = read_speakers(path)  # a table at a time: as little as possible is to be in memory
        words, characters, distinct = 0, 0, set()
        for text in read_texts(path, speakers, need_text=False).values():
            found = text.split()
            words += len(found)
            distinct.update(found)
            characters += len(text)
        different = {"speakers": _digests(set(speakers.values())), "words": _digests(distinct)}
        del distinct
        different["recordings"] = _digests({source.path for source in
                                            read_audio(path, speakers, need_audio=False).values()})
        durations = read_seconds(path)
        seconds = np.array([durations[utt_id] for utt_id in speakers if utt_id in durations])
        files = {file.name: len(read_word_times(file) if file.name in SEVERAL_LINES else read_table(file))
                 for file in data_files(path)
                 if known_file(file.name) is Follows.UTTERANCES and file.name not in ("text", "utt2spk", "segments")}
        return cls({"utterances": len(speakers), "words": words, "characters": characters}, files, different, seconds)

    def save(self, folder: Path) -> None:
        write_json(folder / "counts.json", {"counts": self.counts, "files": self.files})
        for name, values in {**self.different, "seconds": self.seconds}.items():
            np.save(folder / f"{name}.npy", values)

    @classmethod
    def load(cls, folder: Path) -> "_Figures":
        arrays = {file.stem: np.load(file) for file in folder.glob("*.npy")}
        seconds = arrays.pop("seconds")
        return cls(**read_json(folder / "counts.json"), different=arrays, seconds=seconds)


def _put_together(pieces: Iterable[_Figures]) -> Stats:
    counts: dict[str, int] = {}
    files: dict[str, int] = {}
    different: dict[str, _Different] = {}
    seconds = []
    for piece in pieces:
        for total, more in (counts, piece.counts), (files, piece.files):
            for name, count in more.items():
                total[name] = total.get(name, 0) + count
        for name, digests in piece.different.items():
            different.setdefault(name, _Different()).add(digests)
        seconds.append(piece.seconds)
    durations = np.concatenate(seconds)
    complete = len(durations) == counts["utterances"]
    total = math.fsum(durations) if complete else None  # exact: the order of the pieces does not count
    durations.sort()
    return Stats(counts["utterances"], different["speakers"].count(), different["recordings"].count(), counts["words"],
                 different["words"].count(), counts["characters"], total, *(
                     (float(durations[0]), float(_median(durations)), float(durations[-1])) if complete
                     else (None, None, None)), files)


class _Different:
    """Counts different digests, of which many may come again and again."""

    def __init__(self):
        self._known = np.zeros(0, dtype=np.uint64)
        self._new: list[np.ndarray] = []

    def add(self, digests: np.ndarray) -> None:
        self._new.append(digests)
        if sum(map(len, self._new)) > len(self._known):
            self.count()

    def count(self) -> int:
        self._known = np.unique(np.concatenate([self._known, *self._new]))
        self._new = []
        return len(self._known)


def _median(values: np.ndarray) -> float:
    """Of sorted values."""
    return statistics.fmean((values[(len(values) - 1) // 2], values[len(values) // 2]))


def _digests(texts: Iterable[str]) -> np.ndarray:
    """8 bytes of each, sorted."""
    digests = b"".join(blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest() for text in texts)
    return np.sort(np.frombuffer(digests, dtype=np.uint64)) if digests else np.zeros(0, dtype=np.uint64)

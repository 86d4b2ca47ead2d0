"""`check` of a large directory: each of several processes checks pieces, and the report is that of one look at it all.

That holds for tables that are sorted, of which a piece has one stretch of lines. Where a piece finds a line that is not
in its place, the whole directory is checked again by one process, which keeps all ids in memory.

`spk2utt` has no pieces, since a speaker's utterances may be anywhere. It agrees with utt2spk if the sums of the digests
of all (utterance, speaker) are the same; where they are not, it is read once for each piece.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from blspkd.errors import DataError
from blspkd.files import read_json, write_json
from blspkd.kaldi.check import LACKS, SHOWN, Checker, Problem, validate
from blspkd.kaldi.files import Follows, data_files, known_file
from blspkd.kaldi.pieces import Pieces, Share, line_begin, lines_of, results
from blspkd.kaldi.tables import scan

NAME = "validate"
DISORDER = "not sorted"
_MODULUS = 1 << 128


def validate_in_pieces(path: str | os.PathLike, share: Share, *, need_text: bool = True, need_audio: bool = True,
                       check_files: bool = True) -> list[Problem] | None:
    """`check.validate`, by several processes; None for one of several jobs, which has done its part."""
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: there is no such data directory; has stage 1 (data preparation) run?")
    pieces, needs = Pieces(path, share.size), {"need_text": need_text, "need_audio": need_audio}
    if len(pieces) == 1:
        return validate(path, check_files=check_files, **needs) if share.job is None else None

    def do(index: int, folder: Path) -> None:
        checker = _PieceChecker(pieces, index, check_files)
        if index == 0:
            checker.check_presence({file.name for file in data_files(path)}, **needs)
        checker.check_tables([file.name for file in data_files(path)])
        found = {"problems": [asdict(problem) for problem in checker.problems.values()], "sum": str(checker.sum()),
                 "is_sorted": checker.is_sorted, "edges": checker.edges}
        write_json(folder / "found.json", found)

    with results(pieces, NAME, [check_files, needs], do, share) as folders:
        if folders is None:
            return None
        problems = _whole(pieces, [read_json(folder / "found.json") for folder in folders])
    return validate(path, check_files=check_files, **needs) if problems is None else problems


def _whole(pieces: Pieces, found: list[dict]) -> list[Problem] | None:
    """The report on the whole directory; None where its pieces do not tell it."""
    edges = [key for piece in found for key in piece["edges"].get("wav.scp", [])]
    if not all(piece["is_sorted"] for piece in found) or any(
            first >= second for first, second in zip(edges[1::2], edges[2::2], strict=False)):
        return None
    merged = Checker(pieces.path, check_files=False)
    for piece in found:
        for problem in piece["problems"]:
            _add(merged, Problem(**problem))
    if (pieces.path / "spk2utt").is_file():
        speakers = _Speakers(pieces.path)
        total = sum(int(piece["sum"]) for piece in found) % _MODULUS
        agree = speakers.total() == total
        if ("spk2utt", DISORDER) in speakers.problems:
            return None
        if not agree:
            for index in range(len(pieces)):
                checker = _PieceChecker(pieces, index, check_files=False)
                checker.check_utt2spk()
                checker.problems.clear()
                checker.check_spk2utt_against_piece()
                for problem in checker.problems.values():
                    _add(speakers, problem)
        for problem in speakers.problems.values():
            _add(merged, problem)
    return merged.found()


def _add(checker: Checker, more: Problem) -> None:
    """Add the problems of a piece to those of others."""
    problem = checker.problems.setdefault((more.file, more.kind), Problem(more.kind, more.file, is_late=more.is_late))
    both = [*zip(problem.places, problem.examples, strict=True),
            *((tuple(place), example) for place, example in zip(more.places, more.examples, strict=True))]
    both.sort(key=lambda row: row[0])
    problem.count += more.count
    problem.places, problem.examples = [row[0] for row in both[:SHOWN]], [row[1] for row in both[:SHOWN]]


class _PieceChecker(Checker):
    """Sees the lines of a piece. `is_sorted`: none of them belongs to another one."""

    def __init__(self, pieces: Pieces, index: int, check_files: bool):
        super().__init__(pieces.path, check_files)
        self.pieces, self.index = pieces, index
        self.is_sorted = True
        self.edges: dict[str, list[str]] = {}  # first and last recording in the share of a table
        self.by_recording = (pieces.path / "segments").is_file()

    def rows(self, name: str) -> Iterator[tuple[int, str, str]]:
        file = self.path / name
        follows = known_file(name)
        by_line = follows is Follows.RECORDINGS and (self.by_recording or name != "wav.scp")
        begin, end = self.share_of_lines(file) if by_line else self.pieces.stretch(file, self.index)
        first, last = (None, None) if by_line else self.pieces.bounds(self.index)
        previous = ""
        with open(file, "rb") as table:
            before = sum(block.count(b"\n") for block in _blocks(table, begin))
            for number, key, value in scan(_lines(table, end), self.reporter(name), before + 1):
                if key < previous or not self.is_between(key, first, last):
                    self.is_sorted = False
                previous = key
                if by_line:
                    self.edges.setdefault(name, [key, key])[1] = key
                yield number, key, value

    @staticmethod
    def is_between(key: str, first: bytes | None, last: bytes | None) -> bool:
        return (not first or first <= key.encode()) and (last is None or key.encode() < last)

    def share_of_lines(self, file: Path) -> tuple[int, int]:
        """The stretch of a table by recording that this piece looks at."""
        size = file.stat().st_size
        with open(file, "rb") as table:
            begin, end = (line_begin(table, size * index // len(self.pieces)) for index in (self.index, self.index + 1))
        return begin, end

    def sum(self) -> int:
        return sum(_digest(utt_id, self.speakers[index]) for utt_id, index in self.ids.items()) % _MODULUS

    def check_spk2utt(self) -> None:
        """Not here: see `_whole`."""

    def check_spk2utt_against_piece(self) -> None:
        bounds = self.pieces.bounds(self.index)
        seen = bytearray(len(self.ids))
        for number, speaker, value in Checker.rows(_Speakers(self.path), "spk2utt"):
            self.check_speaker(number, speaker, value, seen, lambda utt_id: self.is_between(utt_id, *bounds))
        self.add_missing("spk2utt", seen, LACKS)

    def check_recordings(self, with_segments: bool):
        names = super().check_recordings(with_segments)
        return _Recordings(self.path / "wav.scp") if with_segments else names


class _Recordings:
    """Whether wav.scp has a line that can be used of a recording."""

    def __init__(self, file: Path):
        self.file = file
        self.last: tuple[str, bool] = ("", False)  # neighbours are often of one recording

    def __contains__(self, name: str) -> bool:
        if self.last[0] != name:
            lines = lines_of(self.file, [name.encode()])
            self.last = name, any(True for _ in scan(lines, lambda *problem: None, first=2))
        return self.last[1]


class _Speakers(Checker):
    """Looks at spk2utt alone."""

    def __init__(self, path: Path):
        super().__init__(path, check_files=False)

    def total(self) -> int:
        """The sum of the digests of all that it says; its own problems are added."""
        total, previous = 0, ""
        for number, speaker, value in self.rows("spk2utt"):
            if speaker == previous:
                self.add("spk2utt", "duplicate id", f"spk2utt:{number}: {speaker} stands here a second time",
                         (number, 0))
            previous = speaker
            total += sum(_digest(utt_id, speaker) for utt_id in value.split())
        return total % _MODULUS


def _digest(utt_id: str, speaker: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{utt_id} {speaker}".encode(), digest_size=16).digest(), "big")


def _lines(table, end: int) -> Iterator[bytes]:
    """The lines up to byte `end`."""
    place = table.tell()
    for line in table:
        if place >= end:
            return
        place += len(line)
        yield line


def _blocks(table, end: int) -> Iterator[bytes]:
    """What stands before byte `end`; then the file is read from there."""
    while table.tell() < end:
        yield table.read(min(1 << 20, end - table.tell()))

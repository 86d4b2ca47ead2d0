"""Check a data directory and report everything that is wrong in one go.

One pass over each file, without keeping more than the ids in memory; of a large directory, than those of a piece
(`check_pieces`). Headers of audio are not opened here: that is the verb `durations`.
"""

import os
import stat
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from blspkd.audio.samples import file_of, is_command
from blspkd.errors import DataError
from blspkd.kaldi.data_dir import parse_channel, parse_duration, parse_segment
from blspkd.kaldi.files import SEVERAL_LINES, Follows, data_files, known_file
from blspkd.kaldi.tables import key_problem, parse_json_string, remedy_command, scan_lines
from blspkd.progress import progress_bar

SHOWN = 10  # examples of one kind of problem
MORE_THAN_TWO = "more than an id and a speaker"  # of a line of utt2spk
LACKS = "lacks utterances of utt2spk"  # of spk2utt
_BAR_FROM_LINES = 500_000  # below, it takes less than some seconds


@dataclass
class Problem:
    """All problems of one kind in one file: how many, and the first few with their lines or utterances."""

    kind: str
    file: str
    count: int = 0
    examples: list[str] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)  # of the examples: line, and where in it
    is_late: bool = False  # what only the end of the file tells

    def add(self, example: str, place: tuple[int, int]) -> None:
        self.count += 1
        if self.count <= SHOWN:
            self.examples.append(example)
            self.places.append(place)

    def rank(self) -> tuple:
        """Where it stands in the report."""
        phase = {"not a file": 0, "missing file": 1}.get(self.kind, 2)
        table = {"utt2spk": 0, "spk2utt": 1, "wav.scp": 2, "reco2channel": 4}.get(self.file, 3)
        return (phase, 0, "", self.places[0]) if phase < 2 else (2, table, self.file, self.is_late, self.places[0])

    def __str__(self) -> str:
        more = [f"... and {self.count - len(self.examples)} more"] if self.count > len(self.examples) else []
        return "\n  ".join([f"{self.file}: {self.kind}: {self.count}", *self.examples, *more])


def validate(path: str | os.PathLike, *, need_text: bool = True, need_audio: bool = True,
             check_files: bool = True) -> list[Problem]:
    """Every problem of data directory `path`, grouped by file and kind; an empty list where all is well.

    check_files: look whether every audio file is there (one `stat` each; a slow network disk may want False).
    Commands in wav.scp are no problem here; reading refuses them until they are materialised.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: there is no such data directory; has stage 1 (data preparation) run?")
    return Checker(path, check_files).run(need_text, need_audio)


def report(path: str | os.PathLike, problems: list[Problem]) -> str:
    """The text that tells the user about `problems`, with the remedy."""
    total = sum(problem.count for problem in problems)
    return "\n".join([f"{path}: {total} problems of {len(problems)} kinds", *map(str, problems),
                      "mend them where the data are made, or remove what cannot be used (a backup is kept):",
                      f"  {remedy_command('fix_data_dir.sh', path)}"])


def audio_file_problem(entry: str, known: dict[str, str | None]) -> tuple[str, str] | None:
    """(kind, what) if the file of a wav.scp entry is not there or not a file with contents.

    known: archives seen before, which many entries share; updated here.
    """
    place = file_of(entry)
    if place in known:
        return known[place]
    try:
        status = os.stat(place)
        result = None if stat.S_ISREG(status.st_mode) and status.st_size else (
            ("empty audio file", f"{place} is empty") if stat.S_ISREG(status.st_mode)
            else ("not an audio file", f"{place} is not a regular file"))
    except (OSError, ValueError) as error:
        reason = "there is no file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", error)
        result = ("missing audio file", f"{reason}: {place}")
    if place != entry:
        known[place] = result
    return result


class Checker:
    """Looks at the files of a directory one after the other; subclasses see a piece of them."""

    def __init__(self, path: Path, check_files: bool):
        self.path = path
        self.check_files = check_files
        self.problems: dict[tuple[str, str], Problem] = {}
        self.ids: dict[str, int] = {}  # utterance -> its index
        self.speakers: list[str] = []  # by index
        self.bar = None

    def run(self, need_text: bool, need_audio: bool) -> list[Problem]:
        files = {file.name: file for file in data_files(self.path)}
        lines = sum(_count_lines(file) for name, file in files.items()
                    if known_file(name) not in (None, Follows.NOTHING, Follows.SPEAKERS))
        self.bar = progress_bar(f"validate {self.path}", total=lines, unit="line") if lines > _BAR_FROM_LINES else None
        self.check_presence(files, need_text, need_audio)
        self.check_tables(files)
        if self.bar:
            self.bar.close()
        return self.found()

    def found(self) -> list[Problem]:
        return sorted(self.problems.values(), key=Problem.rank)

    def check_presence(self, files: Container[str], need_text: bool, need_audio: bool) -> None:
        for number, entry in enumerate(sorted(self.path.iterdir())):
            if entry.name not in files and known_file(entry.name) not in (None, Follows.NOTHING):
                self.add(entry.name, "not a file", f"{entry} is a folder, a broken link or a special file", (number, 0))
        needed = ["utt2spk", "spk2utt"] + ["text"] * need_text + ["wav.scp"] * need_audio
        for number, name in enumerate(needed):
            if name not in files:
                self.add(name, "missing file", f"there is no {self.path / name}", (number, 0))

    def check_tables(self, files: Iterable[str]) -> None:
        if "utt2spk" in files:
            self.check_utt2spk()
        if "spk2utt" in files and self.ids:
            self.check_spk2utt()
        recordings = self.check_recordings(with_segments="segments" in files) if "wav.scp" in files else set()
        for name in files:
            if known_file(name) is Follows.UTTERANCES and name != "utt2spk":
                self.check_utterances(name, recordings)
        if "reco2channel" in files:
            for number, key, value in self.rows("reco2channel"):
                self.check_value("reco2channel", number, key, value, parse_channel)

    def add(self, file: str, kind: str, example: str, place: tuple[int, int] | None = None) -> None:
        """place: line and where in it; None: only the end of the file tells."""
        problem = self.problems.setdefault((file, kind), Problem(kind, file, is_late=place is None))
        problem.add(example, place or (0, 0))

    def rows(self, name: str) -> Iterator[tuple[int, str, str]]:
        """The usable lines of file `name`, the others being added to the problems."""
        done = 0
        for row in scan_lines(self.path / name, self.reporter(name)):
            yield row
            if self.bar and row[0] - done >= 10_000:
                self.bar.update(row[0] - done)
                done = row[0]

    def reporter(self, name: str) -> Callable[[str, int, str], None]:
        return lambda kind, number, what: self.add(name, kind, f"{name}:{number}: {what}", (number, 0))

    def check_utt2spk(self) -> None:
        interned: dict[str, str] = {}
        problems: dict[str, str | None] = {}  # of a speaker's name
        for number, key, value in self.rows("utt2spk"):
            if len(value.split()) > 1:
                self.add("utt2spk", MORE_THAN_TWO,
                         f"utt2spk:{number}: {f'{key} {value}'!r}: ids hold no blanks; replace "
                         "those of file names, e.g. by -", (number, 0))
                if key in self.ids:
                    continue
            elif key in self.ids:
                self.add("utt2spk", "duplicate id", f"utt2spk:{number}: {key} stands here a second time", (number, 0))
                continue
            elif value:
                if value not in problems:
                    problems[value] = key_problem(value)
                if problems[value]:
                    self.add("utt2spk", "bad value", f"utt2spk:{number}: {key}: speaker: {problems[value]}",
                             (number, 0))
            self.ids[key] = len(self.speakers)
            self.speakers.append(interned.setdefault(value, value))
        if not self.ids:
            self.add("utt2spk", "no utterance", f"{self.path / 'utt2spk'} holds none")

    def check_spk2utt(self) -> None:
        seen = bytearray(len(self.ids))
        speakers = set()
        for number, speaker, value in self.rows("spk2utt"):
            if speaker in speakers:
                self.add("spk2utt", "duplicate id", f"spk2utt:{number}: {speaker} stands here a second time",
                         (number, 0))
            speakers.add(speaker)
            self.check_speaker(number, speaker, value, seen)
        self.add_missing("spk2utt", seen, LACKS)

    def check_speaker(self, number: int, speaker: str, value: str, seen: bytearray,
                      concerns: Callable[[str], bool] = lambda utt_id: True) -> None:
        """Check the utterances of a line of spk2utt that it `concerns`."""
        for place, utt_id in enumerate(value.split(), 1):
            if not concerns(utt_id):
                continue
            index, problem = self.ids.get(utt_id), None
            if index is None:
                problem = "not in utt2spk", utt_id
            elif self.speakers[index] != speaker:
                problem = "contradicts utt2spk", f"{utt_id} is {speaker}'s here and {self.speakers[index]}'s in utt2spk"
            elif seen[index]:
                problem = "duplicate id", f"{utt_id} stands here a second time"
            else:
                seen[index] = 1
            if problem:
                self.add("spk2utt", problem[0], f"spk2utt:{number}: {problem[1]}", (number, place))

    def check_recordings(self, with_segments: bool) -> Container[str]:
        """Check wav.scp; returns the recordings (nothing where they are the utterances)."""
        names: set[str] = set()
        archives: dict = {}

        def check(number: int, key: str, value: str) -> None:
            problem = None
            if is_command(value):
                if not (value.endswith("|") and value[:-1].strip()):
                    problem = ("bad value", f"{value!r} is neither a file nor a command that writes audio")
            elif self.check_files and value:
                problem = audio_file_problem(value, archives)
            if problem:
                self.add("wav.scp", problem[0], f"wav.scp:{number}: {key}: {problem[1]}", (number, 0))

        if not with_segments:
            self.check_ids("wav.scp", "no audio: not in wav.scp", check)
            return names
        for number, key, value in self.rows("wav.scp"):
            if key in names:
                self.add("wav.scp", "duplicate id", f"wav.scp:{number}: {key} stands here a second time", (number, 0))
            names.add(key)
            check(number, key, value)
        return names

    def check_utterances(self, name: str, recordings: Container[str]) -> None:
        """Check a file with a line per utterance; only `text` and `segments` need to have every utterance."""
        def check(number: int, key: str, value: str) -> None:
            if name == "segments" and self.check_value(name, number, key, value, parse_segment):
                if value.split()[0] not in recordings:
                    self.add(name, "no audio: not in wav.scp", f"{name}:{number}: {key}: recording {value.split()[0]}",
                             (number, 0))
            elif name == "utt2dur":
                self.check_value(name, number, key, value, parse_duration)
            elif name == "continuation":
                self.check_value(name, number, key, value, parse_json_string)

        missing = {"text": "no transcript: not in text", "segments": "no audio: not in segments"}.get(name)
        self.check_ids(name, missing, check)

    def check_ids(self, name: str, missing: str | None, check: Callable[[int, str, str], None]) -> None:
        """Duplicate, unknown and (if `missing` names the problem) missing utterances; `check` looks at each line."""
        seen = bytearray(len(self.ids))
        unknown: set[str] = set()
        for number, key, value in self.rows(name):
            index = self.ids.get(key)
            if name not in SEVERAL_LINES and (key in unknown or (index is not None and seen[index])):
                self.add(name, "duplicate id", f"{name}:{number}: {key} stands here a second time", (number, 0))
            if index is None:
                unknown.add(key)
                if self.ids and name != "utt2dur":  # utt2dur is derived: `durations` writes it anew
                    self.add(name, "not in utt2spk", f"{name}:{number}: {key}", (number, 0))
            else:
                seen[index] = 1
            check(number, key, value)
        if missing:
            self.add_missing(name, seen, missing)

    def add_missing(self, name: str, seen: bytearray, kind: str) -> None:
        if 0 in seen:
            for utt_id, index in self.ids.items():
                if not seen[index]:
                    self.add(name, kind, utt_id)

    def check_value(self, name: str, number: int, key: str, value: str, parse: Callable) -> bool:
        if not value:
            return False
        try:
            parse(value)
        except ValueError as error:
            self.add(name, "bad value", f"{name}:{number}: {key}: {error}", (number, 0))
            return False
        return True


def _count_lines(file: Path) -> int:
    with open(file, "rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))

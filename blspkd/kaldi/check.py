"""Check a data directory and report everything that is wrong in one go.

One pass over each file, without keeping more than the ids in memory, so that a million utterances take seconds and
some hundred megabytes. Headers of audio are not opened here: that is the verb `durations`.
"""

import os
import stat
from collections.abc import Callable, Iterator
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
_BAR_FROM_LINES = 500_000  # below, it takes less than some seconds


@dataclass
class Problem:
    """All problems of one kind in one file: how many, and the first few with their lines or utterances."""

    kind: str
    file: str
    count: int = 0
    examples: list[str] = field(default_factory=list)

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
    return _Checker(path, check_files).run(need_text, need_audio)


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


class _Checker:
    def __init__(self, path: Path, check_files: bool):
        self.path = path
        self.check_files = check_files
        self.problems: dict[tuple[str, str], Problem] = {}
        self.ids: dict[str, int] = {}  # utterance -> its index
        self.speakers: list[str] = []  # by index

    def run(self, need_text: bool, need_audio: bool) -> list[Problem]:
        files = {file.name: file for file in data_files(self.path)}
        lines = sum(_count_lines(file) for name, file in files.items()
                    if known_file(name) not in (None, Follows.NOTHING, Follows.SPEAKERS))
        self.bar = progress_bar(f"validate {self.path}", total=lines, unit="line") if lines > _BAR_FROM_LINES else None
        for entry in self.path.iterdir():
            if entry.name not in files and known_file(entry.name) not in (None, Follows.NOTHING):
                self.add(entry.name, "not a file", f"{entry} is a folder, a broken link or a special file")
        needed = ["utt2spk", "spk2utt"] + ["text"] * need_text + ["wav.scp"] * need_audio
        for name in needed:
            if name not in files:
                self.add(name, "missing file", f"there is no {self.path / name}")
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
        if self.bar:
            self.bar.close()
        return list(self.problems.values())

    def add(self, file: str, kind: str, example: str) -> None:
        problem = self.problems.setdefault((file, kind), Problem(kind, file))
        problem.count += 1
        if problem.count <= SHOWN:
            problem.examples.append(example)

    def rows(self, name: str) -> Iterator[tuple[int, str, str]]:
        """The usable lines of file `name`, the others being added to the problems."""
        def found(kind: str, number: int, what: str) -> None:
            self.add(name, kind, f"{name}:{number}: {what}")

        done = 0
        for row in scan_lines(self.path / name, found):
            yield row
            if self.bar and row[0] - done >= 10_000:
                self.bar.update(row[0] - done)
                done = row[0]

    def check_utt2spk(self) -> None:
        interned: dict[str, str] = {}
        for number, key, value in self.rows("utt2spk"):
            if len(value.split()) > 1:
                self.add("utt2spk", MORE_THAN_TWO,
                         f"utt2spk:{number}: {f'{key} {value}'!r}: ids hold no blanks; replace "
                         "those of file names, e.g. by -")
                if key in self.ids:
                    continue
            elif key in self.ids:
                self.add("utt2spk", "duplicate id", f"utt2spk:{number}: {key} stands here a second time")
                continue
            elif value and value not in interned and (problem := key_problem(value)):
                self.add("utt2spk", "bad value", f"utt2spk:{number}: {key}: speaker: {problem}")
            self.ids[key] = len(self.speakers)
            self.speakers.append(interned.setdefault(value, value))
        if not self.ids:
            self.add("utt2spk", "no utterance", f"{self.path / 'utt2spk'} holds none")

    def check_spk2utt(self) -> None:
        seen = bytearray(len(self.ids))
        speakers = set()
        for number, speaker, value in self.rows("spk2utt"):
            if speaker in speakers:
                self.add("spk2utt", "duplicate id", f"spk2utt:{number}: {speaker} stands here a second time")
            speakers.add(speaker)
            for utt_id in value.split():
                index = self.ids.get(utt_id)
                if index is None:
                    self.add("spk2utt", "not in utt2spk", f"spk2utt:{number}: {utt_id}")
                elif self.speakers[index] != speaker:
                    self.add("spk2utt", "contradicts utt2spk",
                             f"spk2utt:{number}: {utt_id} is {speaker}'s here and {self.speakers[index]}'s in utt2spk")
                elif seen[index]:
                    self.add("spk2utt", "duplicate id", f"spk2utt:{number}: {utt_id} stands here a second time")
                else:
                    seen[index] = 1
        self.add_missing("spk2utt", seen, "lacks utterances of utt2spk")

    def check_recordings(self, with_segments: bool) -> set[str]:
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
                self.add("wav.scp", problem[0], f"wav.scp:{number}: {key}: {problem[1]}")

        if not with_segments:
            self.check_ids("wav.scp", "no audio: not in wav.scp", check)
            return names
        for number, key, value in self.rows("wav.scp"):
            if key in names:
                self.add("wav.scp", "duplicate id", f"wav.scp:{number}: {key} stands here a second time")
            names.add(key)
            check(number, key, value)
        return names

    def check_utterances(self, name: str, recordings: set[str]) -> None:
        """Check a file with a line per utterance; only `text` and `segments` need to have every utterance."""
        def check(number: int, key: str, value: str) -> None:
            if name == "segments" and self.check_value(name, number, key, value, parse_segment):
                if value.split()[0] not in recordings:
                    self.add(name, "no audio: not in wav.scp", f"{name}:{number}: {key}: recording {value.split()[0]}")
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
                self.add(name, "duplicate id", f"{name}:{number}: {key} stands here a second time")
            if index is None:
                unknown.add(key)
                if self.ids and name != "utt2dur":  # utt2dur is derived: `durations` writes it anew
                    self.add(name, "not in utt2spk", f"{name}:{number}: {key}")
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
            self.add(name, "bad value", f"{name}:{number}: {key}: {error}")
            return False
        return True


def _count_lines(file: Path) -> int:
    with open(file, "rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))

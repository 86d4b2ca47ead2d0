"""Make a data directory valid by removing what cannot be used, as Kaldi's utils/fix_data_dir.sh: an utterance stays if
it is in `utt2spk`, in `text` (with words) and in the audio tables, those of them that exist.

Nothing is guessed: of two lines with the same id and different values neither stays. Files that have to change are
kept in `.backup/` (a second backup of `text` is called `text.1`); the others, and tables of unknown names, are not
touched. Recordings that no segment cuts go, and what tables by speaker say of speakers who have gone.
"""

import os
import shutil
from collections.abc import Callable, Container, Iterable, Mapping
from itertools import chain
from pathlib import Path

from blspkd.audio.samples import is_command
from blspkd.errors import DataError
from blspkd.files import atomic_path
from blspkd.kaldi.check import MORE_THAN_TWO, SHOWN, audio_file_problem
from blspkd.kaldi.data_dir import parse_channel, parse_duration, parse_segment
from blspkd.kaldi.files import SEVERAL_LINES, Follows, data_files, known_file
from blspkd.kaldi.tables import key_problem, parse_json_string, scan_lines

_PARSERS = {"segments": parse_segment, "utt2dur": parse_duration, "continuation": parse_json_string,
            "reco2channel": parse_channel}
_HARMLESS = ("byte order mark", "carriage return", "not sorted", "blank line")  # nothing is lost by mending these


def fix(path: str | os.PathLike, *, check_files: bool = True, remove: Iterable[str] = ()) -> list[str]:
    """Fix data directory `path`; returns what was done, line by line (nothing: it was in order).

    check_files: an utterance whose audio file is missing or empty goes, too.
    remove:      ids of further utterances to leave out.
    Raises DataError, with nothing changed, if no utterance would be left.
    """
    path = Path(path)
    if not (path / "utt2spk").exists() and not (path / "spk2utt").exists():
        raise DataError(f"{path}: is no data directory: there is neither utt2spk nor spk2utt")
    return _Fixer(path).run(check_files, set(remove))


class _Fixer:
    """Reads what decides, of which as little is kept in memory as that needs; then all files once more, one by one."""

    def __init__(self, path: Path):
        self.path = path
        self.files = {file.name: file for file in data_files(path) if known_file(file.name) not in
                      (None, Follows.NOTHING) and file.name not in ("spk2utt", *SEVERAL_LINES)}
        self.faults: dict[str, list[str]] = {name: [] for name in self.files}  # of the lines of each file
        self.sizes: dict[str, int] = {}  # usable lines of those that decide
        self.done: list[str] = []
        self.ids: dict[str, str] = {}  # of all files: each is kept once

    def run(self, check_files: bool, remove: set[str]) -> list[str]:
        utt2spk = self.read_utt2spk()
        texts = dict.fromkeys(self.read("text")) if "text" in self.files else None
        recordings = self.read_recordings(check_files) if "wav.scp" in self.files else None
        segments = self.read_segments(recordings) if "segments" in self.files else None
        audio = recordings if segments is None else segments
        tables = {"utt2spk": utt2spk, "text": texts, "wav.scp" if segments is None else "segments": audio}
        keep = _utterances_to_keep({name: rows for name, rows in tables.items() if rows is not None}, remove, self.done)
        if not keep:
            raise DataError("\n  ".join([f"{self.path}: no utterance would be left; nothing was changed",
                                         *chain(*self.faults.values()), *self.done]))
        utt2spk = {utt_id: speaker for utt_id, speaker in utt2spk.items() if utt_id in keep}
        wanted = {Follows.UTTERANCES: keep, Follows.SPEAKERS: set(utt2spk.values()),
                  Follows.RECORDINGS: keep if segments is None else {segments[utt_id] for utt_id in keep}}
        if segments is not None and recordings is not None:
            self.tell_others("wav.scp", recordings, wanted)
        del tables, texts, recordings, segments, audio
        changed = [name for name in self.files if self.rewrite(name, wanted)]
        if "utt2spk" not in self.files:
            _write(self.path / "utt2spk", utt2spk)
            changed.append("utt2spk")
        if self.rewrite_spk2utt(spk2utt(utt2spk)):
            changed.append("spk2utt")
        changed += [name for name in SEVERAL_LINES
                    if (self.path / name).is_file() and _keep_lines(self.path / name, keep, self.done)]
        if not changed:
            return []
        return [*chain(*self.faults.values()), *self.done, f"written anew: {', '.join(sorted(changed))}; what was "
                f"there before is in {self.path / '.backup'}"]

    def read(self, name: str) -> dict[str, str]:
        rows = _read(self.files[name], self.faults[name], self.ids)
        self.sizes[name] = len(rows)
        return rows

    def read_utt2spk(self) -> dict[str, str]:
        if "utt2spk" in self.files:
            rows = self.read("utt2spk")
        else:
            rows = {utt_id: speaker for speaker, value in _read(self.path / "spk2utt", self.done, self.ids).items()
                    for utt_id in value.split()}
            self.done.append("utt2spk: made from spk2utt")
        _drop(rows, [key for key, value in rows.items() if key_problem(value)],
              "utt2spk: {} without exactly one speaker, whose name can be an id, removed: {}", self.done)
        return rows

    def read_recordings(self, check_files: bool) -> dict[str, None]:
        rows = self.read("wav.scp")
        if check_files:
            archives: dict = {}
            _drop(rows, [key for key, value in rows.items()
                         if not is_command(value) and audio_file_problem(value, archives)],
                  "wav.scp: {} without audio file removed: {}", self.done)
        return dict.fromkeys(rows)

    def read_segments(self, recordings: Container[str] | None) -> dict[str, str]:
        """{utt-id: recording}"""
        rows = {key: value.split()[0] for key, value in self.read("segments").items()}
        if recordings is not None:
            _drop(rows, [key for key, recording in rows.items() if recording not in recordings],
                  "segments: {} of recordings that are not in wav.scp removed: {}", self.done)
        return {key: self.ids.get(recording, recording) for key, recording in rows.items()}

    def rewrite(self, name: str, wanted: Mapping[Follows, set[str]]) -> bool:
        """Leave only the lines of the utterances, recordings and speakers that are `wanted`; False if all are."""
        ids = wanted[known_file(name)]
        decided = name in self.sizes  # it was read before, and has all of these ids
        if decided and self.sizes[name] == len(ids) and not self.faults[name]:
            return False
        rows = _read(self.files[name], [] if decided else self.faults[name], self.ids)
        if not decided:
            self.tell_others(name, rows, wanted)
        kept = {key: value for key, value in rows.items() if key in ids}
        if len(kept) == len(rows) and not self.faults[name]:
            return False
        _write(self.files[name], kept)
        return True

    def rewrite_spk2utt(self, rows: dict[str, str]) -> bool:
        file, faults = self.path / "spk2utt", []
        if file.exists() and _read(file, faults, self.ids) == rows and not faults:
            return False
        _write(file, rows)
        return True

    def tell_others(self, name: str, rows: Iterable[str], wanted: Mapping[Follows, set[str]]) -> None:
        kind = known_file(name)
        others = [key for key in rows if key not in wanted[kind]]
        if others:
            self.done.append(f"{name}: {len(others)} not in the directory's {kind.value}: {_some(others)}")


def _keep_lines(file: Path, keep: set[str], done: list[str]) -> bool:
    """Take the lines of other utterances than `keep` out of a file with several lines of one; False if it has none."""
    def wanted(line: bytes) -> bool:
        return b"".join(line.split(None, 1)[:1]).decode("utf-8", "replace") in keep

    with open(file, "rb") as lines:
        removed = sum(not wanted(line) for line in lines)
    if not removed:
        return False
    back_up(file)
    with atomic_path(file) as temporary, open(file, "rb") as lines, open(temporary, "wb") as kept:
        kept.writelines(line for line in lines if wanted(line))
    done.append(f"{file.name}: {removed} lines of other utterances removed")
    return True


def spk2utt(utt2spk: dict[str, str]) -> dict[str, str]:
    """`utt2spk` turned round: {speaker: "utt-id utt-id ..."}, both sorted."""
    grouped: dict[str, list[str]] = {}
    for utt_id in sorted(utt2spk):
        grouped.setdefault(utt2spk[utt_id], []).append(utt_id)
    return {speaker: " ".join(grouped[speaker]) for speaker in sorted(grouped)}


def back_up(file: Path) -> None:
    """Copy `file` into `.backup/` beside it, under a name that is still free there."""
    backup = file.parent / ".backup" / file.name
    number = 0
    while backup.exists():
        number += 1
        backup = backup.with_name(f"{file.name}.{number}")
    with atomic_path(backup) as temporary:
        shutil.copy2(file, temporary)


def _read(file: Path, faults: list[str], ids: dict[str, str]) -> dict[str, str]:
    """The usable lines of `file`, sorted; what is mended or left out is added to `faults`, new ids to `ids`."""
    found: dict[str, list[str]] = {}
    rows: dict[str, str] = {}
    contradicting: set[str] = set()
    parse: Callable | None = _PARSERS.get(file.name)
    previous = ""

    def note(kind: str, number: int, what: str) -> None:
        found.setdefault(kind, []).append(f"line {number}: {what}" if kind == "bad id" else f"line {number}")

    for number, key, value in scan_lines(file, note):
        if not value:
            continue
        if file.name == "utt2spk" and len(value.split()) > 1:
            note(f"{MORE_THAN_TWO} (ids hold no blanks; replace those of file names)", number, key)
            continue
        if key in rows:
            note("duplicate id", number, key)
            if rows[key] != value:
                contradicting.add(key)
        if parse:
            try:
                parse(value)
            except ValueError:
                note("bad value", number, key)
                continue
        if value == previous:
            value = previous
        rows[ids.setdefault(key, key)] = previous = value
    for kind, places in found.items():
        faults.append(f"{file.name}: {kind} {'mended' if kind in _HARMLESS else 'removed'}: {_some(places)}")
    _drop(rows, sorted(contradicting), file.name + ": {} with contradicting lines removed: {}", faults)
    return {key: rows[key] for key in sorted(rows)} if "not sorted" in found else rows


def _utterances_to_keep(tables: Mapping[str, Mapping], remove: set[str], done: list[str]) -> set[str]:
    everywhere = set().union(*tables.values())
    keep = set(tables["utt2spk"])
    for name, rows in tables.items():
        missing = everywhere.difference(rows)
        if missing:
            done.append(f"{len(missing)} utterances that are not in {name} removed: {_some(sorted(missing))}")
        keep.intersection_update(rows)
    if remove & keep:
        done.append(f"utterances removed as asked: {_some(sorted(remove & keep))}")
    return keep - remove


def _drop(rows: dict[str, str], keys: list[str], message: str, done: list[str]) -> None:
    for key in keys:
        del rows[key]
    if keys:
        done.append(message.format(len(keys), _some(keys)))


def _write(file: Path, rows: dict[str, str]) -> None:
    """Write `rows`, with a backup of what was there."""
    if file.exists():
        back_up(file)
    with atomic_path(file) as temporary, open(temporary, "wb") as lines:
        lines.writelines(f"{key} {value}\n".encode() for key, value in rows.items())


def _some(things: list[str]) -> str:
    more = f" ... and {len(things) - SHOWN} more" if len(things) > SHOWN else ""
    return ", ".join(things[:SHOWN]) + more

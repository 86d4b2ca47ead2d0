"""Cut and join data directories: subset, split, combine, with the meaning of Kaldi's scripts of these names.

Directories have to be in order (`validate`), but for spk2utt and empty values. Lines are carried over byte by byte, but
for blanks in front, so that combining what was split gives the same files again. A directory appears whole or not at
all; one that stands in its place and is a data directory is replaced.
"""

import os
import shutil
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

from blspkd.atomic import atomic_path
from blspkd.data.continuation_info import combined_info, partial_info, renamed_info, write_info
from blspkd.data.kaldi_check import report, validate
from blspkd.data.kaldi_files import INFO, Follows, data_files, follows
from blspkd.data.kaldi_fix import spk2utt
from blspkd.data.tables import key_problem, read_table, remedy, write_table
from blspkd.errors import DataError

Lines = dict[bytes, list[bytes]]  # id -> its lines


def subset(source: str | os.PathLike, destination: str | os.PathLike, utterances: Iterable[str]) -> int:
    """Write the `utterances` of `source` to the new data directory `destination`; returns how many they are."""
    source, destination = Path(source), Path(destination)
    part_of = dict.fromkeys(utterances, 0)
    missing = part_of.keys() - _checked(source).keys()
    if missing:
        raise DataError(f"{source}: {len(missing)} of the utterances asked for are not there, e.g. {min(missing)}")
    if not part_of:
        raise DataError(f"{source}: no utterance is selected; ask for at least one")
    with new_directory(destination, [source]) as temporary:
        _distribute(source, [temporary], part_of)
    return len(part_of)


def copy(source: str | os.PathLike, destination: str | os.PathLike, utt_id: Callable[[str], str],
         speaker: Callable[[str], str]) -> int:
    """Write `source` under other names: utt_id and speaker give the new ones; returns the number of utterances.

    Recordings are renamed like utterances where they are one and the same (no `segments`). Raises DataError where two
    would get one name.
    """
    source, destination = Path(source), Path(destination)
    utt2spk = _checked(source)
    renamed = {utt_id(old): speaker(spoken_by) for old, spoken_by in utt2spk.items()}
    if len(renamed) < len(utt2spk):
        raise DataError(f"{source}: several utterances would get one name")
    rename = {Follows.UTTERANCES: utt_id, Follows.SPEAKERS: speaker,
              Follows.RECORDINGS: str if (source / "segments").exists() else utt_id}
    with new_directory(destination, [source]) as temporary:
        for name, kind in _kinds(source).items():
            if name == INFO:
                write_info(temporary / name, renamed_info(source / name, utt_id))
            elif kind is Follows.NOTHING:
                shutil.copyfile(source / name, temporary / name)
            elif name not in ("utt2spk", "spk2utt"):
                _write(temporary / name, {rename[kind](key.decode()).encode(): [
                    rename[kind](key.decode()).encode() + line.removeprefix(key) for line in lines]
                    for key, lines in _lines(source / name).items()})
        write_table(temporary / "utt2spk", renamed)
        write_table(temporary / "spk2utt", spk2utt(renamed))
    return len(renamed)


def split(path: str | os.PathLike, parts: int, *, per_utt: bool = False) -> list[Path]:
    """Cut into DIR/split<parts>/1 ... <parts>, or with `per_utt` DIR/split<parts>utt/...; returns their paths.

    A speaker stays in one part unless `per_utt`; parts are contiguous and as even as that allows.
    """
    path = Path(path)
    speakers = _checked(path)
    groups: dict[str, list[str]] = {}
    for utt_id, speaker in speakers.items():
        groups.setdefault(utt_id if per_utt else speaker, []).append(utt_id)
    if not 1 <= parts <= len(groups):
        what = "utterances" if per_utt else "speakers"
        raise DataError(f"{path}: cannot be split into {parts} parts, it has {len(groups)} {what}; ask for fewer parts"
                        + ("" if per_utt else " or split by utterance (--per-utt)"))
    members = list(groups.values())
    ends = list(accumulate(map(len, members)))
    part_of, first = {}, 0
    for part in range(parts):
        goal = (part + 1) * len(speakers) / parts
        nearest = bisect_left(ends, goal) + 1
        if nearest > 1 and goal - ends[nearest - 2] <= ends[nearest - 1] - goal:
            nearest -= 1
        last = min(max(nearest, first + 1), len(members) - (parts - 1 - part))  # leaves a group for each other part
        part_of.update((utt_id, part) for group in members[first:last] for utt_id in group)
        first = last
    target = path / f"split{parts}{'utt' if per_utt else ''}"
    foreign = [entry for entry in target.iterdir() if not (entry / "utt2spk").exists()] if target.is_dir() else []
    if foreign:
        raise DataError(f"{target}: would be replaced, but holds {foreign[0].name}, which is no part of a split; move "
                        "it away")
    with atomic_path(target) as temporary:
        folders = [temporary / str(number) for number in range(1, parts + 1)]
        for folder in folders:
            folder.mkdir(parents=True)
        _distribute(path, folders, part_of)
    return [target / folder.name for folder in folders]


def combine(destination: str | os.PathLike, sources: Iterable[str | os.PathLike]) -> list[str]:
    """Join data directories of different utterances into `destination`; returns notes about files left out.

    Raises DataError for an id that means different things in two sources, and for a `text` that only some have.
    """
    destination, sources = Path(destination), [Path(source) for source in sources]
    if not sources:
        raise DataError("nothing to combine: name at least one data directory")
    speakers: dict[str, str] = {}
    origin: dict[str, Path] = {}
    kinds: dict[str, Follows] = {}
    for source in sources:
        own = _checked(source)
        for utt_id in own:
            if utt_id in origin:
                raise DataError(f"utterance {utt_id} is in {origin[utt_id]} and in {source}; give the ids of one a "
                                "prefix, or leave it out of one (subset --utt-list)")
            origin[utt_id] = source
        speakers.update(own)
        kinds.update(_kinds(source))
    notes: list[str] = []
    with new_directory(destination, sources) as temporary:
        for name, kind in kinds.items():
            having = [source for source in sources if (source / name).exists()]
            if name == "text" and having != sources:
                raise DataError(f"{name} is in {having[0]} but not in all of the directories to combine")
            if name == INFO:
                write_info(temporary / name, combined_info(having))
            elif kind is Follows.NOTHING:
                if len({(source / name).read_bytes() for source in having}) > 1:
                    notes.append(f"{name}: differs between the directories, left out")
                else:
                    shutil.copyfile(having[0] / name, temporary / name)
            elif name != "spk2utt":
                lines = _joined(name, having)
                if name == "segments":  # elsewhere the whole recording is the utterance
                    for source in (source for source in sources if source not in having):
                        lines.update({key: [key + b" " + key + b" 0 -1\n"] for key in _lines(source / "wav.scp")})
                _write(temporary / name, lines)
        write_table(temporary / "spk2utt", spk2utt(speakers))
    return notes


def _distribute(source: Path, folders: list[Path], part_of: Mapping[str, int]) -> None:
    """Write each utterance's lines to `folders[part_of[utterance]]`; utterances without a part are left out."""
    speakers = _utt2spk(source)
    parts: dict[Follows, dict[bytes, set[int]]] = {kind: {} for kind in Follows}
    for utt_id, part in part_of.items():
        parts[Follows.UTTERANCES][utt_id.encode()] = {part}
        parts[Follows.SPEAKERS].setdefault(speakers[utt_id].encode(), set()).add(part)
    if (source / "segments").exists():
        for utt_id, lines in _lines(source / "segments").items():
            for part in parts[Follows.UTTERANCES].get(utt_id, ()):
                parts[Follows.RECORDINGS].setdefault(lines[0].split()[1], set()).add(part)
    else:
        parts[Follows.RECORDINGS] = parts[Follows.UTTERANCES]
    for name, kind in _kinds(source).items():
        if name == "spk2utt":
            continue
        if kind is Follows.NOTHING:
            for part, folder in enumerate(folders):
                if name == INFO:
                    members = {utt_id for utt_id, number in part_of.items() if number == part}
                    written = _lines(source / "continuation") if (source / "continuation").exists() else {}
                    write_info(folder / name, partial_info(source / name, members, map(bytes.decode, written)))
                else:
                    shutil.copyfile(source / name, folder / name)
            continue
        tables: list[Lines] = [{} for _ in folders]
        for key, lines in _lines(source / name).items():
            for part in parts[kind].get(key, ()):
                tables[part][key] = lines
        for folder, table in zip(folders, tables, strict=True):
            _write(folder / name, table)
    members: list[dict[str, str]] = [{} for _ in folders]
    for utt_id, part in part_of.items():
        members[part][utt_id] = speakers[utt_id]
    for folder, utt2spk in zip(folders, members, strict=True):
        write_table(folder / "spk2utt", spk2utt(utt2spk))


def _joined(name: str, sources: list[Path]) -> Lines:
    """The lines of `name` of all `sources`. Recordings and speakers may be in several, if their lines agree."""
    joined: Lines = {}
    for source in sources:
        for key, lines in _lines(source / name).items():
            if joined.setdefault(key, lines) != lines:
                raise DataError(f"{source / name}: {key.decode(errors='replace')} has another line in one of "
                                f"{', '.join(map(str, sources))}; give the ids of one a prefix")
    return joined


def _kinds(source: Path) -> dict[str, Follows]:
    """File name -> what its lines belong to, for the files of `source`."""
    utterances = {key.encode(): speaker.encode() for key, speaker in _utt2spk(source).items()}
    recordings = _lines(source / "wav.scp") if (source / "wav.scp").exists() else {}
    speakers = set(utterances.values())
    return {file.name: follows(file, utterances, recordings, speakers) for file in data_files(source)}


def _checked(path: Path) -> dict[str, str]:
    """utt2spk of a directory that is in order, as far as that matters to its lines. Raises DataError."""
    speakers = _utt2spk(path)
    problems = [problem for problem in validate(path, need_text=False, need_audio=False, check_files=False)
                if problem.file != "spk2utt" and problem.kind not in ("no value", "not sorted", "blank line")]
    if problems:
        raise DataError(report(path, problems))
    return speakers


def _utt2spk(path: Path) -> dict[str, str]:
    if not (path / "utt2spk").exists():
        raise DataError(f"{path}: there is no utt2spk; is this a data directory?\n{remedy(path)}")
    return read_table(path / "utt2spk")


def _lines(file: Path) -> Lines:
    """The lines of `file` by their first field, each with its line feed. Raises DataError for what can be no id."""
    found: Lines = {}
    with open(file, "rb") as stream:
        for number, line in enumerate(stream, 1):
            line = line.lstrip(b" \t")
            key = line.split(None, 1)[:1]
            if not key:
                continue
            try:
                problem = key_problem(key[0].decode())
            except UnicodeDecodeError:
                problem = "the id is not valid UTF-8"
            if problem:
                raise DataError(f"{file}:{number}: {problem}; mend the line or remove the file")
            found.setdefault(key[0], []).append(line if line.endswith(b"\n") else line + b"\n")
    return found


def _write(file: Path, table: Lines) -> None:
    with open(file, "wb") as stream:
        for key in sorted(table):
            stream.writelines(table[key])


@contextmanager
def new_directory(destination: Path, sources: list[Path]) -> Iterator[Path]:
    """A folder that takes the place of `destination` when all went well."""
    places = {source.resolve() for source in sources}
    if any(destination.resolve() in (place, *place.parents) for place in places):
        raise DataError(f"{destination}: would replace the data directory it is made from; choose another place")
    if destination.exists() and not (destination / "utt2spk").exists() and (
            not destination.is_dir() or any(destination.iterdir())):
        raise DataError(f"{destination}: exists and is no data directory; remove it or choose another place")
    with atomic_path(destination) as temporary:
        temporary.mkdir()
        yield temporary
        if (destination / "continuation").exists() and not (temporary / "continuation").exists():
            raise DataError(f"{destination}: would be replaced, and its continuations be lost; remove it or choose "
                            "another place")

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

from blspkd.errors import DataError
from blspkd.files import atomic_path
from blspkd.kaldi.check import report, validate
from blspkd.kaldi.continuation_info import combined_info, partial_info, renamed_info, write_info
from blspkd.kaldi.files import INFO, Follows, data_files, first_id, follows, known_file
from blspkd.kaldi.fix import spk2utt
from blspkd.kaldi.tables import PLAIN_KEY, key_problem, read_table, remedy, write_table

Lines = dict[bytes, bytes]  # id -> its lines


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
                table: Lines = {}
                for old, lines in _lines(source / name).items():
                    new = rename[kind](old.decode()).encode()
                    table[new] = (b"\n" + lines).replace(b"\n" + old, b"\n" + new)[1:]
                _write(temporary / name, table)
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
    kinds: dict[str, Follows] = {}
    for source in sources:
        own = _checked(source)
        for utt_id in own:
            if utt_id in speakers:
                other = next(other for other in sources if utt_id in _utt2spk(other))
                raise DataError(f"utterance {utt_id} is in {other} and in {source}; give the ids of one a prefix, or "
                                "leave it out of one (subset --utt-list)")
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
                        lines.update({key: key + b" " + key + b" 0 -1\n" for key in _lines(source / "wav.scp")})
                _write(temporary / name, lines)
        write_table(temporary / "spk2utt", spk2utt(speakers))
    return notes


def _distribute(source: Path, folders: list[Path], part_of: Mapping[str, int]) -> None:
    """Write each utterance's lines to `folders[part_of[utterance]]`; utterances without a part are left out."""
    speakers = _utt2spk(source)
    kinds = _kinds(source)
    members: list[dict[str, str]] = [{} for _ in folders]
    parts: dict[Follows, dict[bytes, tuple[int, ...]]] = {kind: {} for kind in Follows}
    alone = [(part,) for part in range(len(folders))]  # one of each is enough

    def add(kind: Follows, key: bytes, part: int) -> None:
        before = parts[kind].get(key, ())
        if part not in before:
            parts[kind][key] = (*before, part) if before else alone[part]

    for utt_id, part in part_of.items():
        members[part][utt_id] = speakers[utt_id]
        add(Follows.UTTERANCES, utt_id.encode(), part)
        add(Follows.SPEAKERS, speakers[utt_id].encode(), part)
    del speakers  # a million take a hundred megabytes
    for folder, utt2spk in zip(folders, members, strict=True):
        write_table(folder / "spk2utt", spk2utt(utt2spk))
    if INFO in kinds:
        table = source / "continuation"
        written = [key.decode() for key, _ in _keyed_lines(table)] if table.exists() else []
        for folder, utt2spk in zip(folders, members, strict=True):
            write_info(folder / INFO, partial_info(source / INFO, set(utt2spk), written))
    del members
    if (source / "segments").exists():
        for utt_id, line in _keyed_lines(source / "segments"):
            for part in parts[Follows.UTTERANCES].get(utt_id, ()):
                add(Follows.RECORDINGS, line.split(None, 2)[1], part)
    else:
        parts[Follows.RECORDINGS] = parts[Follows.UTTERANCES]
    for name, kind in kinds.items():
        if kind is not Follows.NOTHING and name != "spk2utt":
            _distribute_lines(source / name, [folder / name for folder in folders], parts[kind])
        elif name not in (INFO, "spk2utt"):
            for folder in folders:
                shutil.copyfile(source / name, folder / name)


def _distribute_lines(source: Path, files: list[Path], parts: Mapping[bytes, tuple[int, ...]]) -> None:
    """Write each line of `source` to `files[part]` for the parts of its id, sorted by it."""
    lines: list[list[bytes]] = [[] for _ in files]
    previous, in_order = b"", True
    for key, line in _keyed_lines(source):
        in_order, previous = in_order and previous <= key, key
        for part in parts.get(key, ()):
            lines[part].append(line)
    for file, own in zip(files, lines, strict=True):
        if not in_order:
            own.sort(key=lambda line: line.split(None, 1)[0])
        with open(file, "wb") as stream:
            stream.writelines(own)


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
    files = data_files(source)
    firsts = {first_id(file) for file in files if known_file(file.name) is None}
    utterances, recordings, speakers = set(), set(), set()
    if firsts:
        for utt_id, line in _keyed_lines(source / "utt2spk"):
            utterances.update(firsts & {utt_id})
            speakers.update(firsts.intersection(line.split()[1:]))
        if (source / "wav.scp").exists():
            recordings = {key for key, _ in _keyed_lines(source / "wav.scp") if key in firsts}
    return {file.name: follows(file, utterances, recordings, speakers) for file in files}


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


def _keyed_lines(file: Path) -> Iterator[tuple[bytes, bytes]]:
    """(first field, line) of the lines of `file`, each with its line feed. Raises DataError for what can be no id."""
    with open(file, "rb") as stream:
        for number, line in enumerate(stream, 1):
            plain = PLAIN_KEY.match(line)
            if plain:
                key = plain[0]
            else:
                line = line.lstrip(b" \t")
                key = b"".join(line.split(None, 1)[:1])
                if not key:
                    continue
                try:
                    problem = key_problem(key.decode())
                except UnicodeDecodeError:
                    problem = "the id is not valid UTF-8"
                if problem:
                    raise DataError(f"{file}:{number}: {problem}; mend the line or remove the file")
            yield key, line if line.endswith(b"\n") else line + b"\n"


def _lines(file: Path) -> Lines:
    """The lines of `file` by their first field; several of one stay together, in their order."""
    table: Lines = {}
    for key, line in _keyed_lines(file):
        table[key] = table[key] + line if key in table else line
    return table


def _write(file: Path, table: Lines) -> None:
    with open(file, "wb") as stream:
        stream.writelines(table[key] for key in sorted(table))


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

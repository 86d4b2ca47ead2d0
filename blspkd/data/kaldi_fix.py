"""Make a data directory valid by removing what cannot be used, as Kaldi's utils/fix_data_dir.sh: an utterance stays if
it is in `utt2spk`, in `text` (with words) and in the audio tables, those of them that exist.

Nothing is guessed: of two lines with the same id and different values neither stays. Files that have to change are
kept in `.backup/` (a second backup of `text` is called `text.1`); the others, and tables of unknown names, are not
touched. Recordings that no segment cuts go, and what tables by speaker say of speakers who have gone.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from blspkd.atomic import atomic_path
from blspkd.data.audio import is_command
from blspkd.data.kaldi_check import SHOWN, audio_file_problem
from blspkd.data.kaldi_dir import parse_channel, parse_duration, parse_segment
from blspkd.data.kaldi_files import SEVERAL_LINES, Follows, data_files, known_file
from blspkd.data.tables import key_problem, parse_json_string, scan_lines
from blspkd.errors import DataError

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
    done: list[str] = []
    tables = {file.name: _read(file, done) for file in data_files(path)
              if known_file(file.name) not in (None, Follows.NOTHING) and file.name not in ("spk2utt", *SEVERAL_LINES)}
    if "utt2spk" not in tables:
        tables["utt2spk"] = {utt_id: speaker for speaker, value in _read(path / "spk2utt", done).items()
                             for utt_id in value.split()}
        done.append("utt2spk: made from spk2utt")
    _drop(tables["utt2spk"], [key for key, value in tables["utt2spk"].items() if key_problem(value)],
          "utt2spk: {} without exactly one speaker, whose name can be an id, removed: {}", done)
    if check_files and "wav.scp" in tables:
        archives: dict = {}
        _drop(tables["wav.scp"], [key for key, value in tables["wav.scp"].items()
                                  if not is_command(value) and audio_file_problem(value, archives)],
              "wav.scp: {} without audio file removed: {}", done)
    if "segments" in tables and "wav.scp" in tables:
        _drop(tables["segments"], [key for key, value in tables["segments"].items()
                                   if value.split()[0] not in tables["wav.scp"]],
              "segments: {} of recordings that are not in wav.scp removed: {}", done)
    keep = _utterances_to_keep(tables, set(remove), done)
    if not keep:
        raise DataError(f"{path}: no utterance would be left; nothing was changed\n  " + "\n  ".join(done))
    _drop_others(tables, keep, done)
    tables["spk2utt"] = spk2utt(tables["utt2spk"])
    changed = [name for name, rows in tables.items() if _replace(path / name, rows)]
    changed += [name for name in SEVERAL_LINES if (path / name).is_file() and _keep_lines(path / name, keep, done)]
    if changed:
        done.append(f"written anew: {', '.join(sorted(changed))}; what was there before is in {path / '.backup'}")
    return done if changed else []


def _drop_others(tables: dict[str, dict[str, str]], keep: set[str], done: list[str]) -> None:
    """Leave only the lines of the utterances `keep`, of their recordings and of their speakers."""
    cut = tables.get("segments")
    recordings = {value.split()[0] for key, value in cut.items() if key in keep} if cut is not None else keep
    speakers = {tables["utt2spk"][utt_id] for utt_id in keep}
    ids = {Follows.UTTERANCES: keep, Follows.RECORDINGS: recordings, Follows.SPEAKERS: speakers}
    told = () if cut is None else ("wav.scp",)  # elsewhere these were told about as utterances
    for name, rows in tables.items():
        kind = known_file(name)
        _drop(rows, [key for key in rows if key not in ids[kind]],
              f"{name}: {{}} not in the directory's {kind.value}: {{}}",
              done if name not in ("utt2spk", "text", "segments", "wav.scp") or name in told else [])


def _keep_lines(file: Path, keep: set[str], done: list[str]) -> bool:
    """Take the lines of other utterances than `keep` out of a file with several lines of one; False if it has none."""
    lines = file.read_bytes().splitlines(keepends=True)
    wanted = {utt_id.encode() for utt_id in keep}
    kept = [line for line in lines if line.split(None, 1)[:1] and line.split(None, 1)[0] in wanted]
    if len(kept) == len(lines):
        return False
    back_up(file)
    with atomic_path(file) as temporary:
        temporary.write_bytes(b"".join(kept))
    done.append(f"{file.name}: {len(lines) - len(kept)} lines of other utterances removed")
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


def _read(file: Path, done: list[str]) -> dict[str, str]:
    """The usable lines of `file`, sorted; what is mended or left out is told in `done`."""
    found: dict[str, list[str]] = {}
    rows: dict[str, str] = {}
    contradicting: set[str] = set()
    parse: Callable | None = _PARSERS.get(file.name)

    def note(kind: str, number: int, what: str) -> None:
        found.setdefault(kind, []).append(f"line {number}")

    for number, key, value in scan_lines(file, note):
        if not value:
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
        rows[key] = value
    for kind, places in found.items():
        done.append(f"{file.name}: {kind} {'mended' if kind in _HARMLESS else 'removed'}: {_some(places)}")
    _drop(rows, sorted(contradicting), file.name + ": {} with contradicting lines removed: {}", done)
    return {key: rows[key] for key in sorted(rows)}


def _utterances_to_keep(tables: dict[str, dict[str, str]], remove: set[str], done: list[str]) -> set[str]:
    deciding = [name for name in ("utt2spk", "text", "segments" if "segments" in tables else "wav.scp")
                if name in tables]
    everywhere = set().union(*(tables[name] for name in deciding))
    keep = set(tables["utt2spk"])
    for name in deciding:
        missing = everywhere.difference(tables[name])
        if missing:
            done.append(f"{len(missing)} utterances that are not in {name} removed: {_some(sorted(missing))}")
        keep.intersection_update(tables[name])
    if remove & keep:
        done.append(f"utterances removed as asked: {_some(sorted(remove & keep))}")
    return keep - remove


def _drop(rows: dict[str, str], keys: list[str], message: str, done: list[str]) -> None:
    for key in keys:
        del rows[key]
    if keys:
        done.append(message.format(len(keys), _some(keys)))


def _replace(file: Path, rows: dict[str, str]) -> bool:
    """Write `rows` to `file` and keep a backup, unless the file says the same already."""
    contents = "".join(f"{key} {value}\n" for key, value in rows.items()).encode()
    if file.exists():
        before = file.read_bytes()
        if before == contents or _same_but_blanks(before, rows):
            return False
        back_up(file)
    with atomic_path(file) as temporary:
        temporary.write_bytes(contents)
    return True


def _same_but_blanks(before: bytes, rows: dict[str, str]) -> bool:
    """True if the lines differ from `rows` in nothing but the blanks around the value, which are nobody's mistake."""
    lines = before.removesuffix(b"\n").split(b"\n")
    if len(lines) != len(rows) or before.startswith(b"\xef\xbb\xbf") or b"\r" in before:
        return False
    for line, (key, value) in zip(lines, rows.items(), strict=True):
        fields = line.strip(b" \t").split(None, 1)
        if len(fields) != 2 or fields[0] != key.encode() or fields[1] != value.encode():
            return False
    return True


def _some(things: list[str]) -> str:
    more = f" ... and {len(things) - SHOWN} more" if len(things) > SHOWN else ""
    return ", ".join(things[:SHOWN]) + more

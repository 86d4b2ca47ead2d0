"""One decode directory, `exp/<tag>/decode_<task>_<set>[.<system>]`: its fingerprint, its parts, its finished files.

While it grows it holds `parts/`: whole part files beside the fingerprint they were made with. Finished, it holds
`hyp.jsonl`, `text` and, written last, `decode.json` with the fingerprint; scoring adds `score.json`.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from blspkd.errors import DataError
from blspkd.files import atomic_write
from blspkd.kaldi.data_dir import write_table

log = logging.getLogger(__name__)
# System -> ending of the directory's name.
SUFFIX = {"speech": "", "text": ".text", "chance": ".chance", "cascade": ".cascade"}
CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # a Kaldi table cannot hold these; hyp.jsonl keeps them
Fingerprint = dict[str, object]


def decode_dir_path(exp_dir: str | Path, task: str, set_name: str, system: str) -> Path:
    return Path(exp_dir) / f"decode_{task}_{set_name}{SUFFIX[system]}"


class PartsDir:
    """A directory of rows by utterance that grows in parts and is finished by its marker."""

    rows_name, marker_name, verb = "hyp.jsonl", "decode.json", "decoding"

    def __init__(self, path: Path, fingerprint: Fingerprint):
        self.path = path
        self.fingerprint = json.loads(json.dumps(fingerprint))  # as it comes back from the file

    def is_finished(self) -> bool:
        """Whether the final files are there, made with this fingerprint."""
        if self._changes(_read_json(self.path / self.marker_name)):
            return False
        shutil.rmtree(self.path / "parts", ignore_errors=True)  # a kill came between the marker and this
        return True

    def start(self) -> None:
        """Make ready for the first part; parts with this fingerprint stay, what another one left is removed."""
        finished, started = self.path / self.marker_name, self.path / "parts" / "fingerprint.json"
        changed = self._changes(_read_json(finished if finished.exists() else started))
        if finished.exists():
            log.info("%s: %s again, since it was made with another %s", self.path, self.verb, ", ".join(changed))
        elif started.exists() and changed:
            log.info("%s: starting over, since it was begun with another %s", self.path, ", ".join(changed))
        elif started.exists():
            log.info("%s: going on after %d finished part(s)", self.path, len(self._part_files()))
            return
        if self.path.exists():
            shutil.rmtree(self.path)
        with atomic_write(started) as file:
            json.dump({"fingerprint": self.fingerprint}, file)

    def has_part(self, index: int, batches: list[list[str]]) -> bool:
        """Whether the part is there with all of its utterances, in their order; one that was cut is not."""
        try:
            rows = read_rows(self._part(index))
        except DataError:
            return False
        return [row.get("utt_id") for row in rows] == [utt_id for batch in batches for utt_id in batch]

    def write_part(self, index: int, rows: Iterable[dict]) -> None:
        _write_rows(self._part(index), rows)

    def finish(self, rows: Iterable[dict] | None = None) -> None:
        """Write the final files, in utterance order, from `rows` or from the parts, then remove the parts."""
        if rows is None:
            rows = [row for part in self._part_files() for row in read_rows(part)]
        rows = sorted(rows, key=lambda row: row["utt_id"].encode())
        _write_rows(self.path / self.rows_name, rows)
        self._write_beside(rows)
        with atomic_write(self.path / self.marker_name) as file:
            json.dump({"n": len(rows), "fingerprint": self.fingerprint}, file, indent=2, ensure_ascii=False)
        shutil.rmtree(self.path / "parts")
        for left_by_a_kill in self.path.glob("*.tmp-*"):
            left_by_a_kill.unlink()

    def rows(self) -> list[dict]:
        return _read_all_rows(self.path / self.rows_name, self.path / self.marker_name)

    def _write_beside(self, rows: list[dict]) -> None:
        """Further files made from the rows."""

    def _part(self, index: int) -> Path:
        return self.path / "parts" / f"part-{index:05d}.jsonl"

    def _part_files(self) -> list[Path]:
        return sorted((self.path / "parts").glob("part-*.jsonl"))

    def _changes(self, written: dict) -> list[str]:
        """What differs between this fingerprint and the one in a file's contents."""
        other = written.get("fingerprint")
        if not isinstance(other, dict):
            return ["version of this toolkit"]
        return [key for key in sorted({*self.fingerprint, *other}) if self.fingerprint.get(key) != other.get(key)]


class DecodeDir(PartsDir):
    """The hypotheses of one (task, system) on one set; rows are dictionaries as in `hyp.jsonl`."""

    def __init__(self, exp_dir: str | Path, task: str, set_name: str, system: str, fingerprint: Fingerprint):
        super().__init__(decode_dir_path(exp_dir, task, set_name, system), fingerprint)
        self.task, self.system = task, system

    def _write_beside(self, rows: list[dict]) -> None:
        write_text(self.path / "text", rows)


def write_text(path: Path, rows: list[dict]) -> None:
    """The rows' hypotheses as a Kaldi table; an empty one leaves its utterance's id alone on the line."""
    write_table(path, {row["utt_id"]: " ".join(CONTROL.sub(" ", row["hypothesis"]).split()) for row in rows})


def read_finished(path: Path) -> list[dict]:
    """Rows of a finished decode directory; DataError with the remedy if it is missing or was not finished."""
    if not (path / "decode.json").is_file():
        state = "is not finished" if path.is_dir() else "is not there"
        raise DataError(f"{path}: {state}; decode first (stage 4)")
    return _read_all_rows(path / "hyp.jsonl", path / "decode.json")


def read_rows(path: Path) -> list[dict]:
    """The rows of a `hyp.jsonl` or part file. Raises DataError naming file and line."""
    rows = []
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            for line in file:
                rows.append(json.loads(line))
    except FileNotFoundError:
        raise DataError(f"{path}: missing; remove {path.parent} and decode again") from None
    except ValueError as error:
        raise DataError(f"{path}:{len(rows) + 1}: not JSON ({error}); remove {path.parent} and decode again") from None
    return rows


def _read_all_rows(path: Path, marker: Path) -> list[dict]:
    """The rows of a finished file; DataError where they are not as many as its marker counts."""
    rows = read_rows(path)
    written = _read_json(marker).get("n", len(rows))
    if written != len(rows):
        raise DataError(f"{path}: {written} rows were written, {len(rows)} are there; remove {path.parent} and decode "
                        "again")
    return rows


def fingerprint_files(paths: Iterable[Path]) -> dict[str, str]:
    """File -> digest of its contents, for all files at or under `paths`, by names relative to each path."""
    found = {}
    for path in paths:
        for file in [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file()):
            digest = hashlib.sha256()
            with open(file, "rb") as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
            found[file.relative_to(path.parent).as_posix()] = digest.hexdigest()[:16]
    return found


def _write_rows(path: Path, rows: Iterable[dict]) -> None:
    with atomic_write(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _read_json(path: Path) -> dict:
    """The object in `path`; {} if it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}

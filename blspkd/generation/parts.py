"""Continuations in parts: what a kill can cost, and what a restart skips when it is there.

Parts are fixed slices of the sorted utterances, and the batches of a part are fixed too, whatever the number of jobs:
so the continuations do not depend on it. Jobs claim parts, or some batches of one (`claims`). A job that writes a whole
part puts it into `<data-dir>/continuation.parts/part-<i>-of-<n>.jsonl`, some of its batches into a file of the folder
`part-<i>-of-<n>`; many parts are in folders `000`, `001` ... of `PER_FOLDER`. A file is written atomically: a header
line with what made it (model, prompt, options, transcripts, by a digest: its fingerprint), then a line per utterance. A
part is complete when its files, those with its fingerprint, hold every one of its utterances. `merge` puts complete
parts together.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from math import ceil
from pathlib import Path
from typing import Any

from blspkd.files import atomic_write
from blspkd.kaldi.transcripts import Row, as_rows

ROW = {"utt_id", "text", "n_tokens", "finished", "reason"}  # keys of an utterance's line
FORMAT = 1  # of the part files and of the rules that make them; a change makes old parts stale
PER_FOLDER = 400  # parts: each may have a file and a folder, and some folders stand beside them
_NAME = re.compile(r"part-(\d{5,})-of-(\d{5,})")


@dataclass(frozen=True)
class Part:
    """One slice of the data directory's utterances."""

    path: Path  # the file of a job that writes all of it
    transcripts: dict[str, str]  # utterance id -> text
    fingerprint: str

    def path_of(self, batches: slice, batch_size: int) -> Path:
        """The file of a job that writes these batches."""
        if batches == slice(0, ceil(len(self.transcripts) / batch_size)):
            return self.path
        return self.path.with_suffix("") / f"batches-{batches.start + 1:05d}-{batches.stop:05d}.jsonl"

    def state(self) -> str:
        """"missing", "stale" (made from something else, or no part at all), "incomplete" or "complete"."""
        rows = [rows for _, rows in self.files()]
        if not rows:
            return "stale" if self._paths() else "missing"
        return "complete" if self.transcripts.keys() == set().union(*rows) else "incomplete"

    def lacks(self) -> list[str]:
        """The utterances that none of its files holds."""
        written = self.rows()
        return [utt_id for utt_id in self.transcripts if utt_id not in written]

    def rows(self) -> dict[str, dict]:
        """Utterance id -> its line, for all that are there."""
        return {utt_id: row for _, rows in self.files() for utt_id, row in rows.items()}

    def files(self) -> Iterator[tuple[dict, dict[str, dict]]]:
        """Header and rows of each of its files that has its fingerprint."""
        for path in self._paths():
            header = read_header(path)
            if header is not None and header["fingerprint"] == self.fingerprint:
                yield header, self._rows(path)

    def write(self, rows: Iterable[dict], settings: dict, versions: Mapping[str, str],
              path: Path | None = None) -> None:
        """Add the rows of utterances to the file `path`, or to that of the whole part."""
        path = path or self.path
        header = {"fingerprint": self.fingerprint, "settings": settings, "versions": dict(versions)}
        before = read_header(path) or {}
        written = self._rows(path) if before.get("fingerprint") == self.fingerprint else {}
        written |= {row["utt_id"]: row for row in rows}
        with atomic_write(path) as file:
            print(json.dumps(header, sort_keys=True), file=file)
            for utt_id in self.transcripts:
                if utt_id in written:
                    print(json.dumps(written[utt_id]), file=file)

    def _paths(self) -> list[Path]:
        """Its files, whatever they were made from."""
        return [path for path in [self.path] if path.is_file()] + sorted(self.path.with_suffix("").glob("*.jsonl"))

    def _rows(self, path: Path) -> dict[str, dict]:
        """Utterance id -> line of a file; lines that are cut or belong elsewhere count as not written."""
        rows = {}
        with open(path, "rb") as file:
            for line in islice(file, 1, None):
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict) and ROW <= row.keys() and row["utt_id"] in self.transcripts:
                    rows[row["utt_id"]] = row
        return rows


class Plan(Sequence[Part]):
    """All parts of a data directory. A part's transcripts are read when it is asked for."""

    def __init__(self, data_dir: Path, transcripts: Mapping[str, str] | Sequence[Row], settings: dict):
        self.folder = parts_dir(data_dir)
        self.settings = settings
        self.transcripts = as_rows(transcripts)
        self._size = settings["generation"]["part_size"]
        self._number = ceil(len(self.transcripts) / self._size)
        self._part = lru_cache(maxsize=2)(self._read)

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: int) -> Part:
        return self._part(range(self._number)[index])

    def path(self, index: int) -> Path:
        """The file of part `index`."""
        name = f"part-{index + 1:05d}-of-{self._number:05d}.jsonl"
        return self.folder / f"{index // PER_FOLDER:03d}" / name if self._number > PER_FOLDER else self.folder / name

    def owns(self, path: Path) -> bool:
        """Whether a file or folder of this name and at this place is one of these parts'."""
        name = _NAME.fullmatch(path.name.partition(".")[0])
        return (name is not None and int(name[2]) == self._number and 0 < int(name[1]) <= self._number
                and self.path(int(name[1]) - 1).parent == path.parent)

    def _read(self, index: int) -> Part:
        rows = self.transcripts[index * self._size:(index + 1) * self._size]
        return Part(self.path(index), dict(rows), fingerprint(self.settings, rows))


def make_settings(llm: str, identity: Mapping[str, str], prompt: Mapping[str, Any], options: Mapping[str, Any]) -> dict:
    """Everything but the transcripts that decides what the parts hold."""
    return {"format": FORMAT, "model": llm, "identity": dict(identity), "prompt": dict(prompt),
            "generation": dict(options)}


def plan_parts(data_dir: Path, transcripts: Mapping[str, str] | Sequence[Row], settings: dict) -> Plan:
    """Slice `transcripts` (sorted as in the data directory) into parts of settings' part_size utterances."""
    return Plan(data_dir, transcripts, settings)


def fingerprint(settings: dict, transcripts: Iterable[Row]) -> str:
    """Digest of what a part, or the whole, is made from; transcripts: (utterance, text).

    A model's folder may move: its contents count, not its name. The batch size decides nothing but memory and speed, so
    it may be lowered after an "out of memory" without losing the parts that are done.
    """
    options = {key: value for key, value in settings["generation"].items() if key != "batch_size"}
    made_from = json.dumps({**settings, "model": None, "generation": options, "transcripts": []}, sort_keys=True)
    digest = hashlib.sha256(made_from.removesuffix("]}").encode())  # the transcripts are the last in it
    for number, row in enumerate(transcripts):
        digest.update(f"{', ' * (number > 0)}{json.dumps(row)}".encode())
    digest.update(b"]}")
    return digest.hexdigest()


def parts_dir(data_dir: Path) -> Path:
    """Where the parts of this data directory live until they are merged."""
    return Path(data_dir) / "continuation.parts"


def read_header(path: Path) -> dict | None:
    """The header of a part file; None where the file is not one of ours."""
    try:
        with open(path, encoding="utf-8") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError):
        return None
    return header if isinstance(header, dict) and {"fingerprint", "settings", "versions"} <= header.keys() else None


def remove_strangers(data_dir: Path, plan: Plan) -> None:
    """Remove the part files of other runs that `plan`, the one of this run, would not overwrite."""
    for path in chain(*(parts_dir(data_dir).glob(pattern) for pattern in ("part-*-of-*", "[0-9]*/part-*-of-*"))):
        if plan.owns(path):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_parts(data_dir: Path) -> None:
    """Remove the folder of parts, if any."""
    shutil.rmtree(parts_dir(data_dir), ignore_errors=True)

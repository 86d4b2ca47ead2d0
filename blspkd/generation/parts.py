"""Continuations in parts: what a kill can cost, and what a restart skips when it is there.

Parts are fixed slices of the sorted utterances, and the batches of a part are fixed too, whatever the number of jobs:
so the continuations do not depend on it. The batches of all parts are shared out among the jobs. A job that writes a
whole part puts it into `<data-dir>/continuation.parts/part-<i>-of-<n>.jsonl`, some of its batches into a file of the
folder `part-<i>-of-<n>`. A file is written atomically: a header line with what made it (model, prompt, options,
transcripts, by a digest: its fingerprint), then a line per utterance. A part is complete when its files, those with its
fingerprint, hold every one of its utterances. `merge` puts complete parts together.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

from blspkd.files import atomic_write, json_digest
from blspkd.kaldi.parts import Parts

ROW = {"utt_id", "text", "n_tokens", "finished", "reason"}  # keys of an utterance's line
FORMAT = 1  # of the part files and of the rules that make them; a change makes old parts stale


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


class Share(Parts):
    """One job's batches of some parts, for `kaldi.parts.run_parts`; the merge finishes them."""

    def __init__(self, work: list[tuple[Part, slice]], settings: dict, versions: Mapping[str, str]):
        self.work, self.settings, self.versions = work, settings, versions

    def missing(self, index: int, batches: list[list[str]]) -> list[list[str]]:
        """The batches with an utterance that no file of the part holds."""
        written = self.work[index][0].rows()
        return [batch for batch in batches if not written.keys() >= set(batch)]

    def write_part(self, index: int, rows: list[dict]) -> None:
        part, batches = self.work[index]
        part.write(rows, self.settings, self.versions, part.path_of(batches, self.settings["generation"]["batch_size"]))


def make_settings(llm: str, identity: Mapping[str, str], prompt: Mapping[str, Any], options: Mapping[str, Any]) -> dict:
    """Everything but the transcripts that decides what the parts hold."""
    return {"format": FORMAT, "model": llm, "identity": dict(identity), "prompt": dict(prompt),
            "generation": dict(options)}


def plan_parts(data_dir: Path, transcripts: Mapping[str, str], settings: dict) -> list[Part]:
    """Slice `transcripts` (sorted as in the data directory) into parts of settings' part_size utterances."""
    size = settings["generation"]["part_size"]
    utt_ids = list(transcripts)
    slices = [utt_ids[start:start + size] for start in range(0, len(utt_ids), size)]
    parts = []
    for index, ids in enumerate(slices):
        path = parts_dir(data_dir) / f"part-{index + 1:05d}-of-{len(slices):05d}.jsonl"
        rows = {utt_id: transcripts[utt_id] for utt_id in ids}
        parts.append(Part(path, rows, fingerprint(settings, rows)))
    return parts


def fingerprint(settings: dict, transcripts: Mapping[str, str]) -> str:
    """Digest of what a part is made from.

    A model's folder may move: its contents count, not its name. The batch size decides nothing but memory and speed, so
    it may be lowered after an "out of memory" without losing the parts that are done.
    """
    options = {key: value for key, value in settings["generation"].items() if key != "batch_size"}
    made_from = {**settings, "model": None, "generation": options, "transcripts": list(transcripts.items())}
    return json_digest(made_from)


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


def remove_strangers(data_dir: Path, parts: list[Part]) -> None:
    """Remove the part files of other runs that `parts`, the plan of this one, would not overwrite."""
    planned = {part.path.stem for part in parts}
    for path in parts_dir(data_dir).glob("part-*-of-*"):
        if path.is_dir() and path.name not in planned:
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.partition(".")[0] not in planned:
            path.unlink(missing_ok=True)


def remove_parts(data_dir: Path) -> None:
    """Remove the folder of parts, if any."""
    shutil.rmtree(parts_dir(data_dir), ignore_errors=True)

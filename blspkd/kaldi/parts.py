"""The resumable parts of every command: work on utterances that a kill does not lose.

A plan has parts (what is saved together) of batches (what is computed together) of utterance ids; it is always made the
same, so that a run which was killed and started again writes the same files. `run_parts` is the one loop: it skips what
is there, reads ahead, shows the bar, saves the parts and finishes.
"""

import json
import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blspkd.errors import DataError
from blspkd.files import atomic_write, read_json, read_rows, write_rows
from blspkd.progress import progress_bar

log = logging.getLogger(__name__)
Plan = list[list[list[str]]]
Fingerprint = dict[str, object]


class Parts:
    """Where rows go, part by part; a row is a dictionary with the key `utt_id`."""

    def start(self) -> None:
        """Make ready for the first part."""

    def missing(self, index: int, batches: list[list[str]]) -> list[list[str]]:
        """The batches of part `index` that are still to be computed."""
        return batches

    def write_part(self, index: int, rows: list[dict]) -> None:
        """Save the rows of the missing batches of a part."""

    def finish(self, num_parts: int) -> None:
        """All parts of the plan are there."""


@dataclass
class Job:
    """Places that grow together: a batch is loaded and prepared once for all of them."""

    plan: Plan
    work: Mapping[Parts, Callable[[list[str], Any], list[dict]]]  # place -> (batch, what was prepared) -> its rows
    load: Callable[[list[str]], Any] = lambda batch: None  # reads what a batch needs, in a thread, one batch ahead
    prepare: Callable[[Any], Any] = lambda loaded: loaded  # what is computed from that


def run_parts(title: str, jobs: list[Job]) -> None:
    """Do what is missing of `jobs`, one after the other; a place is finished when its job is done."""
    for job in jobs:
        for place in job.work:
            place.start()
    todo = [(job, _missing_steps(job)) for job in jobs]
    every = [(job, batch, places) for job, parts in todo for _, steps in parts for batch, places in steps]
    ahead = _read_ahead([(job, batch) for job, batch, _ in every])
    total = sum(len(batch) * len(places) for _, batch, places in every)
    with progress_bar(title, total=total, unit="utt") as bar, closing(ahead):
        for job, parts in todo:
            for index, steps in parts:
                rows: dict[Parts, list[dict]] = {}
                for batch, places in steps:
                    prepared = job.prepare(next(ahead))
                    for place in places:
                        rows.setdefault(place, []).extend(job.work[place](batch, prepared))
                        bar.update(len(batch))
                for place, written in rows.items():
                    place.write_part(index, written)
            for place in job.work:
                place.finish(len(job.plan))


def _missing_steps(job: Job) -> list[tuple[int, list[tuple[list[str], list[Parts]]]]]:
    """Number of every part that is not whole, and its batches with the places that lack them."""
    todo = []
    for index, part in enumerate(job.plan):
        missing = {place: place.missing(index, part) for place in job.work}
        steps = [(batch, [place for place in job.work if batch in missing[place]]) for batch in part]
        if any(missing.values()):
            todo.append((index, [(batch, places) for batch, places in steps if places]))
    return todo


def _read_ahead(batches: list[tuple[Job, list[str]]]) -> Iterator[Any]:
    """job.load(batch) of all in order; the next one is read while this one is computed."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead: deque = deque()
        for job, batch in batches:
            ahead.append(pool.submit(job.load, batch))
            if len(ahead) > 1:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


class PartsDir(Parts):
    """A folder of one table: `parts/` with their fingerprint while it grows, then the table and a marker, written last.

    The fingerprint is what the rows are made from, by name: what another one left is done again.
    """

    rows_name, marker_name, verb = "hyp.jsonl", "decode.json", "decoding"

    def __init__(self, path: Path, fingerprint: Fingerprint):
        self.path = path
        self.fingerprint = json.loads(json.dumps(fingerprint))  # as it comes back from the file

    def is_finished(self) -> bool:
        """Whether the final files are there, made with this fingerprint."""
        if self._changes(read_json(self.path / self.marker_name)):
            return False
        shutil.rmtree(self.path / "parts", ignore_errors=True)  # a kill came between the marker and this
        return True

    def start(self) -> None:
        """Parts with this fingerprint stay, what another one left is removed."""
        finished, started = self.path / self.marker_name, self.path / "parts" / "fingerprint.json"
        changed = self._changes(read_json(finished if finished.exists() else started))
        if finished.exists():
            log.info("%s: %s again, since it was made with another %s", self.path, self.verb, ", ".join(changed))
        elif started.exists() and changed:
            log.info("%s: starting over, since it was begun with another %s", self.path, ", ".join(changed))
        elif started.exists():
            there = len(list(started.parent.glob("part-*.jsonl")))
            log.info("%s: going on after %d finished part(s)", self.path, there)
            return
        if self.path.exists():
            shutil.rmtree(self.path)
        with atomic_write(started) as file:
            json.dump({"fingerprint": self.fingerprint}, file)

    def missing(self, index: int, batches: list[list[str]]) -> list[list[str]]:
        """Nothing where the part has all of its utterances, in their order; all of one that was cut."""
        try:
            there = [row.get("utt_id") for row in read_rows(self._part(index))]
        except DataError:
            return batches
        return [] if there == [utt_id for batch in batches for utt_id in batch] else batches

    def write_part(self, index: int, rows: list[dict]) -> None:
        write_rows(self._part(index), rows)

    def finish(self, num_parts: int) -> None:
        """Write the table, in utterance order, and the marker, then remove the parts."""
        rows = [row for index in range(num_parts) for row in read_rows(self._part(index))]
        rows.sort(key=lambda row: row["utt_id"].encode())
        rows = self.joined(rows)
        write_rows(self.path / self.rows_name, rows)
        self.write_beside(rows)
        with atomic_write(self.path / self.marker_name) as file:
            json.dump({"n": len(rows), "fingerprint": self.fingerprint}, file, indent=2, ensure_ascii=False)
        shutil.rmtree(self.path / "parts")
        for left_by_a_kill in self.path.glob("*.tmp-*"):
            left_by_a_kill.unlink()

    def joined(self, rows: list[dict]) -> list[dict]:
        """The rows of all parts as the table has them: what only the whole set can tell is put in here."""
        return rows

    def write_beside(self, rows: list[dict]) -> None:
        """Further files made from the rows."""

    def rows(self) -> list[dict]:
        """The finished table; DataError where its rows are not as many as its marker counts."""
        path = self.path / self.rows_name
        rows = read_rows(path)
        written = read_json(self.path / self.marker_name).get("n", len(rows))
        if written != len(rows):
            raise DataError(f"{path}: {written} rows were written, {len(rows)} are there; remove {path.parent} and "
                            "decode again")
        return rows

    def _part(self, index: int) -> Path:
        return self.path / "parts" / f"part-{index:05d}.jsonl"

    def _changes(self, written: dict) -> list[str]:
        """What differs between this fingerprint and the one in a file's contents."""
        other = written.get("fingerprint")
        if not isinstance(other, dict):
            return ["version of this toolkit"]
        return [key for key in sorted({*self.fingerprint, *other}) if self.fingerprint.get(key) != other.get(key)]


def plan_batches(lengths: Mapping[str, float], batch_size: int, batch_length: float = float("inf")) -> list[list[str]]:
    """Batches of similar length, longest first: at most `batch_size` items and `batch_length` with padding each.

    An item longer than `batch_length` gets a batch of its own.
    """
    batches: list[list[str]] = []
    for key in sorted(lengths, key=lambda key: (-lengths[key], key.encode())):
        last = batches[-1] if batches else None
        if last and len(last) < batch_size and lengths[last[0]] * (len(last) + 1) <= batch_length:
            last.append(key)
        else:
            batches.append([key])
    return batches


def plan_parts(batches: list[list[str]], part_size: int) -> Plan:
    """Neighbouring batches joined to parts of at most `part_size` items; a larger batch is a part of its own."""
    parts: Plan = []
    room = 0
    for batch in batches:
        if len(batch) > room:
            parts.append([])
            room = part_size
        parts[-1].append(batch)
        room -= len(batch)
    return parts

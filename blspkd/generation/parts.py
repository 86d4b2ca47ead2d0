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
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

from blspkd.errors import ConfigError, DataError
from blspkd.files import atomic_write, json_digest, read_json
from blspkd.kaldi.data_dir import write_continuations
from blspkd.kaldi.parts import Parts

ROW = {"utt_id", "text", "n_tokens", "finished", "reason"}  # keys of an utterance's line
# Filters drop single utterances. Where they drop more than half, LLM, prompt or options are wrong.
MAX_BAD_RATIO = 0.5
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


def is_merged(data_dir: Path, transcripts: Mapping[str, str], settings: dict | None = None) -> bool:
    """Whether `continuation` and its info are there, made from these transcripts (and settings, if given)."""
    continuations = Path(data_dir) / "continuation"
    info = read_json(Path(data_dir) / "continuation.info.json")
    if "fingerprint" not in info or not continuations.is_file():
        return False
    with open(continuations, "rb") as file:
        if sum(1 for _ in file) != info["counts"]["written"]:  # it was cut
            return False
    if settings is None:
        settings = make_settings(info["model"], info["identity"], info["prompt"], info["generation"])
    return info["fingerprint"] == fingerprint(settings, transcripts)


def merge(data_dir: Path, transcripts: Mapping[str, str], max_bad_ratio: float = MAX_BAD_RATIO) -> dict:
    """Put the parts together into `continuation` and `continuation.info.json`, then remove them; returns the info.

    Raises DataError where utterances are missing or parts do not belong together, or where the filters dropped more
    than `max_bad_ratio` of the utterances, or all; then nothing is changed.
    """
    if not 0 <= max_bad_ratio <= 1:
        raise ConfigError(f"max_bad_ratio: {max_bad_ratio} is no share; give a number from 0 to 1")
    data_dir = Path(data_dir)
    info_path = data_dir / "continuation.info.json"
    settings = _settings_of_parts(data_dir)
    if is_merged(data_dir, transcripts, settings):  # and then killed, before all parts were removed
        remove_parts(data_dir)
        return json.loads(info_path.read_text(encoding="utf-8"))
    parts = plan_parts(data_dir, transcripts, settings)
    _check_complete(data_dir, parts)
    written: dict[str, str] = {}
    filtered: dict[str, list[str]] = {}
    versions: dict[str, set[str]] = {}
    tokens = unfinished = 0
    for part in parts:
        rows: dict[str, dict] = {}
        for header, more in part.files():
            rows |= more
            for name, version in header["versions"].items():
                versions.setdefault(name, set()).add(version)
        for utt_id in part.transcripts:
            row = rows[utt_id]
            if row["reason"] is not None:
                filtered.setdefault(row["reason"], []).append(utt_id)
                continue
            written[utt_id] = row["text"]
            tokens += row["n_tokens"]
            unfinished += not row["finished"]
    counts = {"utterances": len(transcripts), "written": len(written),
              "filtered": dict(sorted((reason, len(utt_ids)) for reason, utt_ids in filtered.items())),
              "tokens": tokens, "unfinished": unfinished}
    bad_ratio = 1 - len(written) / len(transcripts)
    if not written or bad_ratio > max_bad_ratio:
        accept = (f"; to go on with the others, --max_bad_ratio {ceil(100 * bad_ratio) / 100:g}" if written else "")
        raise DataError(f"{data_dir}: {summary(counts)}: more than --max_bad_ratio {max_bad_ratio:g} allows; is this "
                        "LLM a chat model, are prompt and options right (conf/continuation.yaml)? With others, run "
                        f"stage 2 again{accept}. Nothing was replaced; what the LLM wrote is in {parts_dir(data_dir)}")
    info = {"model": settings["model"], "prompt": settings["prompt"], "generation": settings["generation"],
            "counts": counts, "filtered": filtered,
            "versions": {name: ", ".join(sorted(found)) for name, found in sorted(versions.items())},
            "identity": settings["identity"], "fingerprint": fingerprint(settings, transcripts)}
    # The info goes first and comes last: where it stands, it describes the continuations beside it.
    info_path.unlink(missing_ok=True)
    write_continuations(data_dir / "continuation", written)
    with atomic_write(info_path) as file:
        json.dump(info, file, indent=2, ensure_ascii=False)
        file.write("\n")
    remove_parts(data_dir)
    return info


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


def summary(counts: Mapping[str, Any]) -> str:
    """One line that tells the user what came out: how many were written, and what was dropped for which reason."""
    dropped = counts["utterances"] - counts["written"]
    reasons = Counter(counts["filtered"]).most_common()
    why = f" ({', '.join(f'{reason}: {n}' for reason, n in reasons)})" if reasons else ""
    return f"{counts['written']} continuations of {counts['utterances']} utterances, {dropped} dropped{why}"


def _settings_of_parts(data_dir: Path) -> dict:
    """The settings of the newest part; the parts of another run are found stale by their fingerprints."""
    folder = parts_dir(data_dir)
    paths = folder.rglob("*.jsonl")
    for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True):
        header = read_header(path)
        if header is not None and header["settings"].get("format") == FORMAT:
            return header["settings"]
    raise DataError(f"{folder}: no continuations to merge; run stage 2 first")


def _check_complete(data_dir: Path, parts: list[Part], shown: int = 10) -> None:
    """Raise DataError with the parts that are missing or stale, and every utterance that the others lack."""
    bad = [(part, state) for part in parts if (state := part.state()) != "complete"]
    if not bad:
        return
    lines = []
    missing = 0
    for part, state in bad:
        utt_ids = part.lacks()
        missing += len(utt_ids)
        if state == "incomplete":
            lines.append(f"  {part.path.stem} lacks {len(utt_ids)} utterances: {' '.join(utt_ids)}")
        elif len(lines) < shown:
            why = "" if state == "missing" else " (written with other options, another model or other transcripts)"
            lines.append(f"  {part.path.stem}: {len(utt_ids)} utterances, {utt_ids[0]} ... {utt_ids[-1]}{why}")
    if len(bad) > len(lines):
        lines.append(f"  ... and {len(bad) - len(lines)} more parts")
    raise DataError(f"{data_dir}: {len(bad)} of {len(parts)} parts are missing, stale or incomplete, {missing} "
                    "utterances:\n" + "\n".join(lines) + "\nrun stage 2 again: what is there is kept")

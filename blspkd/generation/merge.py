"""The end of stage 2: complete parts become `continuation` and `continuation.info.json`."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from math import ceil
from pathlib import Path
from typing import Any

from blspkd.errors import ConfigError, DataError
from blspkd.files import atomic_write, contents_digest, read_json
from blspkd.generation.parts import (
    FORMAT,
    Part,
    Plan,
    fingerprint,
    make_settings,
    parts_dir,
    plan_parts,
    read_header,
    remove_parts,
)
from blspkd.kaldi.tables import write_sorted_continuations
from blspkd.kaldi.transcripts import Row, as_rows, written_for

# Filters drop single utterances. Where they drop more than half, LLM, prompt or options are wrong.
MAX_BAD_RATIO = 0.5
_INFO = {"model", "prompt", "generation", "filtered", "identity", "fingerprint"}


def is_merged(data_dir: Path, transcripts: Mapping[str, str] | Sequence[Row], settings: dict | None = None) -> bool:
    """Whether `continuation` and its info are there, made from these transcripts (and settings, if given)."""
    continuations = Path(data_dir) / "continuation"
    info = read_json(Path(data_dir) / "continuation.info.json")
    if not _INFO <= info.keys() or not continuations.is_file():
        return False
    rows = written_for(as_rows(transcripts), settings["generation"] if settings else info["generation"])
    if not _is_whole(continuations, info, rows):
        return False
    if settings is None:
        settings = make_settings(info["model"], info["identity"], info["prompt"], info["generation"])
    return info["fingerprint"] == fingerprint(settings, rows)


def _is_whole(continuations: Path, info: Mapping[str, Any], transcripts: Iterable[Row]) -> bool:
    """Whether the file is as it was written; it may have been cut or changed."""
    if "sha256" in info:
        return info["sha256"] == contents_digest(continuations)
    dropped = {utt_id for names in info["filtered"].values() for utt_id in names}  # an older version: without digest
    written = (utt_id.encode() for utt_id, _ in transcripts if utt_id not in dropped)
    with open(continuations, "rb") as file:
        return all(line.split(b" ", 1)[0] == utt_id if line and utt_id else False
                   for line, utt_id in zip_longest(file, written))


def merge(data_dir: Path, transcripts: Mapping[str, str] | Sequence[Row], max_bad_ratio: float = MAX_BAD_RATIO) -> dict:
    """Put the parts together into `continuation` and `continuation.info.json`, then remove them; returns the info.

    Reads one part at a time, twice. Raises DataError where utterances are missing or parts do not belong together, or
    where the filters dropped more than `max_bad_ratio` of the utterances, or all; then nothing is changed.
    """
    if not 0 <= max_bad_ratio <= 1:
        raise ConfigError(f"max_bad_ratio: {max_bad_ratio} is no share; give a number from 0 to 1")
    data_dir = Path(data_dir)
    info_path = data_dir / "continuation.info.json"
    settings = _settings_of_parts(data_dir)
    transcripts = written_for(as_rows(transcripts), settings["generation"])
    if is_merged(data_dir, transcripts, settings):  # and then killed, before all parts were removed
        remove_parts(data_dir)
        return read_json(info_path)
    plan = plan_parts(data_dir, transcripts, settings)
    counts, filtered, versions = _summed_up(data_dir, plan)
    bad_ratio = 1 - counts["written"] / len(transcripts)
    if not counts["written"] or bad_ratio > max_bad_ratio:
        accept = (f"; to go on with the others, --max_bad_ratio {ceil(100 * bad_ratio) / 100:g}" if counts["written"]
                  else "")
        raise DataError(f"{data_dir}: {summary(counts)}: more than --max_bad_ratio {max_bad_ratio:g} allows; is this "
                        "LLM a chat model, are prompt and options right (conf/continuation.yaml)? With others, run "
                        f"stage 2 again{accept}. Nothing was replaced; what the LLM wrote is in {parts_dir(data_dir)}")
    info = {"model": settings["model"], "prompt": settings["prompt"], "generation": settings["generation"],
            "counts": counts, "filtered": filtered,
            "versions": {name: ", ".join(sorted(found)) for name, found in sorted(versions.items())},
            "identity": settings["identity"], "fingerprint": fingerprint(settings, transcripts)}
    continuations = data_dir / "continuation"
    # The info goes first and comes last: where it stands, it describes the continuations beside it.
    info_path.unlink(missing_ok=True)
    write_sorted_continuations(continuations, ((row["utt_id"], row["text"]) for row in _rows(plan)
                                               if row["reason"] is None))
    info["sha256"] = contents_digest(continuations)
    with atomic_write(info_path) as file:
        json.dump(info, file, indent=2, ensure_ascii=False)
        file.write("\n")
    remove_parts(data_dir)
    return info


def _rows(plan: Plan) -> Iterator[dict]:
    """The lines of all utterances, in their order."""
    for part in plan:
        rows = part.rows()
        yield from (rows[utt_id] for utt_id in part.transcripts)


def _summed_up(data_dir: Path, plan: Plan) -> tuple[dict, dict[str, list[str]], dict[str, set[str]]]:
    """Counts, the utterances that were dropped for each reason, and the versions of each library."""
    filtered: dict[str, list[str]] = {}
    versions: dict[str, set[str]] = {}
    written = tokens = unfinished = 0
    for part, headers, rows in _complete_parts(data_dir, plan):
        for name, version in (item for header in headers for item in header["versions"].items()):
            versions.setdefault(name, set()).add(version)
        for utt_id in part.transcripts:
            row = rows[utt_id]
            if row["reason"] is None:
                written, tokens, unfinished = written + 1, tokens + row["n_tokens"], unfinished + (not row["finished"])
            else:
                filtered.setdefault(row["reason"], []).append(utt_id)
    counts = {"utterances": len(plan.transcripts), "written": written,
              "filtered": {reason: len(utt_ids) for reason, utt_ids in sorted(filtered.items())},
              "tokens": tokens, "unfinished": unfinished}
    return counts, filtered, versions


def summary(counts: Mapping[str, Any]) -> str:
    """One line that tells the user what came out: how many were written, and what was dropped for which reason."""
    dropped = counts["utterances"] - counts["written"]
    reasons = Counter(counts["filtered"]).most_common()
    why = f" ({', '.join(f'{reason}: {n}' for reason, n in reasons)})" if reasons else ""
    return f"{counts['written']} continuations of {counts['utterances']} utterances, {dropped} dropped{why}"


def _settings_of_parts(data_dir: Path) -> dict:
    """The settings of the newest part; the parts of another run are found stale by their fingerprints."""
    folder = parts_dir(data_dir)
    newest, settings = (0, ""), None
    for path in folder.rglob("*.jsonl"):
        date = (path.stat().st_mtime_ns, path.name)
        if date > newest:
            header = read_header(path)
            if header is not None and header["settings"].get("format") == FORMAT:
                newest, settings = date, header["settings"]
    if settings is None:
        raise DataError(f"{folder}: no continuations to merge; run stage 2 first")
    return settings


def _complete_parts(data_dir: Path, plan: Plan, shown: int = 10
                    ) -> Iterator[tuple[Part, list[dict], dict[str, dict]]]:
    """Every part with its headers and lines.

    Raises DataError in the end, with the parts that are missing or stale, and every utterance that the others lack.
    """
    lines = []
    bad = missing = 0
    for part in plan:
        files = list(part.files())
        rows = {utt_id: row for _, found in files for utt_id, row in found.items()}
        utt_ids = [utt_id for utt_id in part.transcripts if utt_id not in rows]
        if not utt_ids:
            yield part, [header for header, _ in files], rows
            continue
        bad, missing = bad + 1, missing + len(utt_ids)
        state = part.state()
        if state == "incomplete":
            lines.append(f"  {part.path.stem} lacks {len(utt_ids)} utterances: {' '.join(utt_ids)}")
        elif len(lines) < shown:
            why = "" if state == "missing" else " (written with other options, another model or other transcripts)"
            lines.append(f"  {part.path.stem}: {len(utt_ids)} utterances, {utt_ids[0]} ... {utt_ids[-1]}{why}")
    if not bad:
        return
    if bad > len(lines):
        lines.append(f"  ... and {bad - len(lines)} more parts")
    raise DataError(f"{data_dir}: {bad} of {len(plan)} parts are missing, stale or incomplete, {missing} "
                    "utterances:\n" + "\n".join(lines) + "\nrun stage 2 again: what is there is kept")

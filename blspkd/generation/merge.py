"""The end of stage 2: complete parts become `continuation` and `continuation.info.json`."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from math import ceil
from pathlib import Path
from typing import Any

from blspkd.errors import ConfigError, DataError
from blspkd.files import atomic_write, contents_digest, read_json
from blspkd.generation.parts import (
    FORMAT,
    Part,
    fingerprint,
    make_settings,
    parts_dir,
    plan_parts,
    read_header,
    remove_parts,
)
from blspkd.kaldi.data_dir import write_continuations
from blspkd.kaldi.sampling import written_for

# Filters drop single utterances. Where they drop more than half, LLM, prompt or options are wrong.
MAX_BAD_RATIO = 0.5
_INFO = {"model", "prompt", "generation", "filtered", "identity", "fingerprint"}


def is_merged(data_dir: Path, transcripts: Mapping[str, str], settings: dict | None = None) -> bool:
    """Whether `continuation` and its info are there, made from these transcripts (and settings, if given)."""
    continuations = Path(data_dir) / "continuation"
    info = read_json(Path(data_dir) / "continuation.info.json")
    if not _INFO <= info.keys() or not continuations.is_file():
        return False
    transcripts = written_for(transcripts, settings["generation"] if settings else info["generation"])
    if not _is_whole(continuations, info, transcripts):
        return False
    if settings is None:
        settings = make_settings(info["model"], info["identity"], info["prompt"], info["generation"])
    return info["fingerprint"] == fingerprint(settings, transcripts)


def _is_whole(continuations: Path, info: Mapping[str, Any], transcripts: Iterable[str]) -> bool:
    """Whether the file is as it was written; it may have been cut or changed."""
    if "sha256" in info:
        return info["sha256"] == contents_digest(continuations)
    dropped = {utt_id for names in info["filtered"].values() for utt_id in names}  # an older version: without digest
    written = [name.encode() for name in transcripts if name not in dropped]
    with open(continuations, "rb") as file:
        return [line.split(b" ", 1)[0] for line in file] == written


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
    transcripts = written_for(transcripts, settings["generation"])
    if is_merged(data_dir, transcripts, settings):  # and then killed, before all parts were removed
        remove_parts(data_dir)
        return read_json(info_path)
    parts = plan_parts(data_dir, transcripts, settings)
    _check_complete(data_dir, parts)
    rows: dict[str, dict] = {}
    versions: dict[str, set[str]] = {}
    for header, more in (file for part in parts for file in part.files()):
        rows |= more
        for name, version in header["versions"].items():
            versions.setdefault(name, set()).add(version)
    written = {utt_id: rows[utt_id] for utt_id in transcripts if rows[utt_id]["reason"] is None}
    filtered: dict[str, list[str]] = {}
    for utt_id in transcripts:
        if utt_id not in written:
            filtered.setdefault(rows[utt_id]["reason"], []).append(utt_id)
    counts = {"utterances": len(transcripts), "written": len(written),
              "filtered": {reason: len(utt_ids) for reason, utt_ids in sorted(filtered.items())},
              "tokens": sum(row["n_tokens"] for row in written.values()),
              "unfinished": sum(not row["finished"] for row in written.values())}
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
    continuations = data_dir / "continuation"
    # The info goes first and comes last: where it stands, it describes the continuations beside it.
    info_path.unlink(missing_ok=True)
    write_continuations(continuations, {utt_id: row["text"] for utt_id, row in written.items()})
    info["sha256"] = contents_digest(continuations)
    with atomic_write(info_path) as file:
        json.dump(info, file, indent=2, ensure_ascii=False)
        file.write("\n")
    remove_parts(data_dir)
    return info


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

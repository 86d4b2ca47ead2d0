"""Continuations in parts: the unit that a job takes, that a kill can cost, and that a restart skips when it is there.

Parts are fixed slices of the sorted utterances, whatever the number of jobs. Each is one file, written atomically,
`<data-dir>/continuation.parts/part-<i>-of-<n>.jsonl`: a header line with what made it (model, prompt, options,
transcripts, by a digest: its fingerprint), then a line per utterance. A part with another fingerprint is written anew.
`merge` puts complete parts together.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blspkd.atomic import atomic_write
from blspkd.data.kaldi_dir import write_continuations
from blspkd.errors import ConfigError, DataError

if TYPE_CHECKING:  # the merge needs no torch
    from blspkd.generation.continuation import Continuation

FORMAT = 1  # of the part files and of the rules that make them; a change makes old parts stale


@dataclass(frozen=True)
class Part:
    """One slice of the data directory's utterances."""

    path: Path
    transcripts: dict[str, str]  # utterance id -> text
    fingerprint: str

    def state(self) -> str:
        """"missing", "stale" (made from something else, or no part at all) or "complete"."""
        if not self.path.is_file():
            return "missing"
        header = read_header(self.path)
        return "complete" if header is not None and header["fingerprint"] == self.fingerprint else "stale"

    def write(self, continuations: Mapping[str, "Continuation"], settings: dict, versions: Mapping[str, str]) -> None:
        """Write the part file; `continuations` holds every utterance of this part."""
        header = {"fingerprint": self.fingerprint, "settings": settings, "versions": dict(versions)}
        with atomic_write(self.path) as file:
            print(json.dumps(header, sort_keys=True), file=file)
            for utt_id in self.transcripts:
                print(json.dumps({"utt_id": utt_id, **asdict(continuations[utt_id])}), file=file)


def make_settings(llm: str, identity: Mapping[str, str], prompt: Mapping[str, Any], options: Mapping[str, Any]) -> dict:
    """Everything but the transcripts that decides what the parts hold."""
    return {"format": FORMAT, "model": llm, "identity": dict(identity), "prompt": dict(prompt),
            "generation": dict(options)}


def plan_parts(data_dir: Path, transcripts: Mapping[str, str], settings: dict) -> list[Part]:
    """Slice `transcripts` (sorted as in the data directory) into parts of settings' part_size utterances."""
    size = settings["generation"]["part_size"]
    if size < 1:
        raise ConfigError(f"part_size: {size} utterances in a part; give a positive number")
    utt_ids = list(transcripts)
    slices = [utt_ids[start:start + size] for start in range(0, len(utt_ids), size)]
    parts = []
    for index, ids in enumerate(slices):
        path = parts_dir(data_dir) / f"part-{index + 1:05d}-of-{len(slices):05d}.jsonl"
        rows = {utt_id: transcripts[utt_id] for utt_id in ids}
        parts.append(Part(path, rows, fingerprint(settings, rows)))
    return parts


def parts_of_job(parts: list[Part], job: int, num_jobs: int) -> list[Part]:
    """The parts of job `job` (1 ... num_jobs): every num_jobs-th one."""
    if not 1 <= job <= num_jobs:
        raise ConfigError(f"--job {job} --num_jobs {num_jobs}: jobs are numbered from 1 to num_jobs")
    return parts[job - 1::num_jobs]


def fingerprint(settings: dict, transcripts: Mapping[str, str]) -> str:
    """Digest of what a part is made from.

    A model's folder may move: its contents count, not its name. The batch size decides nothing but memory and speed, so
    it may be lowered after an "out of memory" without losing the parts that are done.
    """
    options = {key: value for key, value in settings["generation"].items() if key != "batch_size"}
    made_from = {**settings, "model": None, "generation": options, "transcripts": list(transcripts.items())}
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


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
    info_path = Path(data_dir) / "continuation.info.json"
    if not info_path.is_file() or not (Path(data_dir) / "continuation").is_file():
        return False
    try:
        info = json.loads(info_path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    if "fingerprint" not in info:
        return False
    if settings is None:
        settings = make_settings(info["model"], info["identity"], info["prompt"], info["generation"])
    return info["fingerprint"] == fingerprint(settings, transcripts)


def merge(data_dir: Path, transcripts: Mapping[str, str]) -> dict:
    """Put the parts together into `continuation` and `continuation.info.json`, then remove them; returns the info.

    Raises DataError where parts are missing or do not belong together, or nothing survived the filters; then nothing
    is changed.
    """
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
        with open(part.path, encoding="utf-8") as file:
            for name, version in json.loads(file.readline())["versions"].items():
                versions.setdefault(name, set()).add(version)
            for row in map(json.loads, file):
                if row["reason"] is not None:
                    filtered.setdefault(row["reason"], []).append(row["utt_id"])
                    continue
                written[row["utt_id"]] = row["text"]
                tokens += row["n_tokens"]
                unfinished += not row["finished"]
    counts = {"utterances": len(transcripts), "written": len(written),
              "filtered": dict(sorted((reason, len(utt_ids)) for reason, utt_ids in filtered.items())),
              "tokens": tokens, "unfinished": unfinished}
    if not written:
        raise DataError(f"{data_dir}: none of {len(transcripts)} continuations passed the filters "
                        f"({counts['filtered']}); is this LLM a chat model, and is the prompt right?")
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
    planned = {part.path.name for part in parts}
    for path in parts_dir(data_dir).glob("part-*-of-*.jsonl"):
        if path.name not in planned:
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
    paths = folder.glob("part-*-of-*.jsonl")
    for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True):
        header = read_header(path)
        if header is not None and header["settings"].get("format") == FORMAT:
            return header["settings"]
    raise DataError(f"{folder}: no continuations to merge; run stage 2 (blspkd.bin.generate_continuations) first")


def _check_complete(data_dir: Path, parts: list[Part], shown: int = 10) -> None:
    """Raise DataError with the list of parts, and their utterances, that are missing or stale."""
    bad = [(part, state) for part in parts if (state := part.state()) != "complete"]
    if not bad:
        return
    lines = []
    for part, state in bad[:shown]:
        utt_ids = list(part.transcripts)
        why = "" if state == "missing" else " (written with other options, another model or other transcripts)"
        lines.append(f"  {part.path.name}: {len(utt_ids)} utterances, {utt_ids[0]} ... {utt_ids[-1]}{why}")
    if len(bad) > shown:
        lines.append(f"  ... and {len(bad) - shown} more")
    utterances = sum(len(part.transcripts) for part, _ in bad)
    raise DataError(f"{data_dir}: {len(bad)} of {len(parts)} parts are missing or stale, {utterances} utterances:\n"
                    + "\n".join(lines) + "\nrun stage 2 again: the parts that are complete are kept")

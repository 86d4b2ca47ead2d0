"""`continuation.info.json`, how stage 2 wrote a directory's continuations, for parts and unions of directories."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from blspkd.errors import DataError
from blspkd.kaldi.files import INFO

_SETTINGS = ("model", "prompt", "generation", "identity")


def renamed_info(file: Path, utt_id: Callable[[str], str]) -> dict:
    """The same for a copy whose utterances are called `utt_id(old)`."""
    info = _without_fingerprint(_read(file))
    info["filtered"] = {reason: list(map(utt_id, ids)) for reason, ids in (info.get("filtered") or {}).items()}
    return info


def partial_info(file: Path, members: set[str], written: Iterable[str]) -> dict:
    """For the part with the utterances `members`: the same settings, its own counts, no fingerprint of the whole.

    written: the utterances that have a continuation in the whole.
    """
    info = _read(file)
    filtered = {reason: [utt_id for utt_id in utt_ids if utt_id in members]
                for reason, utt_ids in (info.get("filtered") or {}).items()}
    counts = {"utterances": len(members), "written": len(members.intersection(written)),
              "filtered": {reason: len(utt_ids) for reason, utt_ids in filtered.items() if utt_ids}}
    return _without_fingerprint(info) | {
        "counts": counts, "filtered": {reason: utt_ids for reason, utt_ids in filtered.items() if utt_ids}}


def combined_info(sources: list[Path]) -> dict:
    """One `continuation.info.json` for all: settings have to agree, counts add up."""
    infos = [_read(source / INFO) for source in sources]
    counts: dict = {}
    filtered: dict[str, list[str]] = {}
    for source, info in zip(sources, infos, strict=True):
        for key in _SETTINGS:
            if info.get(key) != infos[0].get(key):
                raise DataError(f"{source / INFO}: the continuations were written with another {key} than those of "
                                f"{sources[0]}; write them again with the same settings, or remove them from one")
        _add_counts(counts, info.get("counts") or {})
        for reason, utt_ids in (info.get("filtered") or {}).items():
            filtered[reason] = sorted(filtered.get(reason, []) + utt_ids)
    return _without_fingerprint(infos[0]) | {"counts": counts, "filtered": filtered}


def write_info(file: Path, info: Mapping) -> None:
    file.write_text(json.dumps(info, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _without_fingerprint(info: Mapping) -> dict:
    return {key: value for key, value in info.items() if key not in ("fingerprint", "sha256")}


def _add_counts(total: dict, more: Mapping) -> None:
    for key, value in more.items():
        if isinstance(value, Mapping):
            _add_counts(total.setdefault(key, {}), value)
        elif isinstance(value, int):
            total[key] = total.get(key, 0) + value


def _read(file: Path) -> dict:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file}: is not valid JSON: {error}; run stage 2 again") from None

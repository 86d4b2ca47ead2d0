"""What the base-model scripts share around the training itself: options, and "is it there already?".

A finished model folder holds `training.json`: the options and the checksums of the inputs that made it. A second run
with the same ones does nothing; a run with others says what changed and makes the model anew.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TypeVar

from blspkd.config_file import load_config
from blspkd.errors import DataError
from blspkd.files import atomic_write, contents_digest, json_digest

Options = TypeVar("Options")
RECORD = "training.json"
BEFORE = {"optimizer": "adamw"}  # options that records of earlier versions lack, and what they were then


def read_options(cls: type[Options], description: str) -> Options:
    """Options of dataclass `cls` from the command line; `--help` prints them all."""
    words = sys.argv[1:]
    if "--help" in words or "-h" in words:
        print(description.strip() + "\n\nOptions:")
        for option in dataclasses.fields(cls):
            print(f"  --{option.name} (default: {option.default!r})")
        sys.exit(0)
    return load_config(cls, None, words)


def describe(options: object, outside: tuple[str, ...], inputs: list[Path]) -> dict:
    """What decides the result: all options but those named in `outside`, and the inputs' checksums, in their order."""
    chosen = {key: value for key, value in dataclasses.asdict(options).items() if key not in outside}
    return {"options": chosen, "inputs": {f"{number} {path.parent.name}/{path.name}": _checksum(path)
                                          for number, path in enumerate(inputs, 1)}}


def fingerprint(made_from: dict) -> str:
    return json_digest(made_from)


def is_made(folder: Path, made_from: dict, what: str) -> bool:
    """Whether `folder` holds the finished result of `made_from`; prints why not where an older one is there."""
    record = folder / RECORD
    if not record.is_file():
        return False
    there = json.loads(record.read_text(encoding="utf-8"))["made_from"]
    there["options"] = {key: value for key, value in BEFORE.items() if key in made_from["options"]} | there["options"]
    if there == made_from:
        print(f"{what}: {folder} is there already")
        return True
    for part in ("options", "inputs"):
        old, new = there.get(part, {}), made_from[part]
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                change = f": {old.get(key)} -> {new.get(key)}" if part == "options" else " changed"
                print(f"{what}: {key}{change}; making {folder} anew")
    return False


def write_record(folder: Path, made_from: dict, results: dict | None = None) -> None:
    """The last file written into a finished folder."""
    with atomic_write(folder / RECORD) as file:
        json.dump({"made_from": made_from, "results": results or {}}, file, indent=2, sort_keys=True)
        file.write("\n")


def read_results(folder: Path) -> dict:
    return json.loads((folder / RECORD).read_text(encoding="utf-8"))["results"]


def _checksum(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; make the corpus first (local/data.sh)")
    return contents_digest(path)

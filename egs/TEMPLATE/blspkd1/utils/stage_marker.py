#!/usr/bin/env python3
"""Markers: what a step of a recipe was made from, and that it was finished.

    stage_marker.py check MARKER --stage "3 train" --value train_args= --text conf/train.yaml --output exp/x/model
    stage_marker.py finish --seconds 12 MARKER ...
    stage_marker.py times --output FILE FOLDER ...

`check` ends with status 0 when the step is done and made from the same things, 10 when it has to run, and 1 with an
error that says what changed when something is there that was made from other things: nothing is reused or removed
silently. Standard library only, blspkd's part included: it must work before anything is installed.
"""

import argparse
import difflib
import glob
import json
import os
import re
import shlex
import sys
import time
from pathlib import Path

from recordings import audio_states, changed_recordings
from runner.refusals import tell_refusals

from blspkd import model_files  # path.sh makes sure of it
from blspkd.files import atomic_write, read_json, text_digest

TO_RUN = 10  # exit status
AUDIO = "audio of "  # and the path of a wav.scp: what says whether its recordings changed
TIME = "%Y-%m-%dT%H:%M:%S"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("check", help="is this step done?")
    one.add_argument("marker", type=Path)
    one.add_argument("--stage", required=True, help="number and name: '3 train'")
    one.add_argument("--value", action="append", default=[], metavar="NAME=VALUE", help="an option")
    one.add_argument("--words", action="append", default=[], metavar="NAME=VALUE",
                     help="an option that holds options, of which those of --ignore do not count")
    one.add_argument("--text", action="append", default=[], metavar="PATH", help="a configuration, less comments")
    one.add_argument("--ignore", default="", metavar="KEYS", help="keys of --text and --words that do not count")
    one.add_argument("--ignore_unfinished", default="", metavar="KEYS",
                     help="nor do these, as long as the step is not finished: its own command decides about them")
    one.add_argument("--data", action="append", default=[], nargs="+", metavar=("FOLDER", "PATTERN"),
                     help="files of a folder; absent ones count as such, and with a wav.scp its recordings")
    one.add_argument("--model", action="append", default=[], nargs=2, metavar=("NAME", "MODEL"), help="id or folder")
    one.add_argument("--model_in", action="append", default=[], metavar="KEY",
                     help="a model's folder or file, by its key in a --value or --text")
    one.add_argument("--code", action="append", default=[], metavar="FOLDER", help="a change means: run again")
    one.add_argument("--output", action="append", default=[], metavar="PATTERN", help="must be there in the end")
    one.add_argument("--outputs", action="append", default=[], nargs=2, metavar=("PATTERN", "WORDS"),
                     help="the same for several: each word in the place of %%")
    one.add_argument("--partial", action="append", default=[], metavar="PATTERN", help="what an unfinished run leaves")
    one.add_argument("--remedy", default="", help="what to do when outputs were made from other things")
    one.add_argument("--redo", action="store_true", help="run again, without an error, when something changed")
    many = commands.add_parser("finish", help="these steps are done")
    many.add_argument("markers", type=Path, nargs="+")
    many.add_argument("--seconds", type=float, required=True, help="that they took together")
    many.add_argument("--peak_file", type=Path, help="lines with MiB, of which the largest counts")
    all_of_them = commands.add_parser("times", help="write stage, name, seconds, peak_mib, date between tabs")
    all_of_them.add_argument("--output", type=Path, required=True)
    all_of_them.add_argument("folders", type=Path, nargs="+", help="with markers")
    arguments = parser.parse_args()
    return {"check": check, "finish": finish, "times": times}[arguments.command](arguments)


def check(arguments: argparse.Namespace) -> int:
    made_from = {}
    for label, value in (entry.split("=", 1) for entry in arguments.value + arguments.words):
        made_from[label] = value
    for path in arguments.text:
        made_from[path] = significant_lines(Path(path), arguments.ignore.split())
    words = [word for value in made_from.values() for word in ([value] if isinstance(value, str) else value)]
    for key in arguments.model_in:
        for model in re.findall(rf"\b{key}\b[ :=]+[\"']?([^\s\"',}}]+)", "\n".join(words)):
            if Path(model).exists():
                digest = folder_digest if Path(model).is_dir() else file_digest
                made_from[f"{key} {model}"] = digest(Path(model))
    for folder, *patterns in arguments.data:
        for path in sorted(found for pattern in patterns for found in Path(folder).glob(pattern)):
            made_from[str(path)] = file_digest(path)
            if path.name == "wav.scp":
                made_from[f"{AUDIO}{path}"] = audio_states(path)
    for label, model in arguments.model:
        made_from[label] = f"{model} {folder_digest(Path(model))}".strip() if Path(model).is_dir() else model
    code = {path: folder_digest(Path(path)) for path in arguments.code}

    outputs = arguments.output + [pattern.replace("%", word) for pattern, words in arguments.outputs
                                  for word in words.split()]
    old = read_json(arguments.marker)
    finished = bool(old.get("finished"))
    words = [entry.partition("=")[0] for entry in arguments.words]
    ignored = f"{arguments.ignore} {'' if finished else arguments.ignore_unfinished}".split()
    changes = differences(*(significant(things, words, ignored) for things in (old["made_from"], made_from))
                          ) if old else []
    remains = [path for pattern in (outputs if finished else arguments.partial) for path in present(pattern)]
    if old and changes and remains and not arguments.redo:
        return complain(arguments, changes, remains, old)
    missing = [pattern for pattern in outputs if not present(pattern)]
    if finished and not missing and not changes and old.get("code") == code:
        if old["made_from"] != made_from:  # in what does not count, or of a version that did not look at recordings
            write_marker(arguments.marker, {**old, "made_from": made_from})
        print(f"{arguments.marker.stem}: done on {old['finished']}, nothing changed: skipped", flush=True)
        return 0
    if finished:
        reasons = [f"{path} is not there" for path in missing] + changes
        reasons += [f"{path}: changed" for path in code if old.get("code", {}).get(path) != code[path]]
        print("\n  ".join([f"{arguments.marker.stem}: runs again, because", *reasons]), flush=True)
    write_marker(arguments.marker, {"stage": arguments.stage, "made_from": made_from, "code": code, "outputs": outputs,
                                    "started": now(), "finished": None,
                                    "seconds_before": seconds_before(arguments.marker, old if not changes else {})})
    return TO_RUN


def seconds_before(marker: Path, old: dict) -> float:
    """What attempts that were killed have taken: until they last noted their memory, in the file beside the marker."""
    peaks = marker.with_name(f"{marker.name}.peak")
    if not old or old.get("finished") or not peaks.exists():
        peaks.unlink(missing_ok=True)
        return 0.0
    started = time.mktime(time.strptime(old["started"], TIME))
    return round(old.get("seconds_before", 0.0) + max(0.0, peaks.stat().st_mtime - started), 1)


def finish(arguments: argparse.Namespace) -> int:
    peaks = [0]
    if arguments.peak_file and arguments.peak_file.exists():
        peaks += [int(line) for line in arguments.peak_file.read_text().split() if line.isdigit()]
    for path in arguments.markers:
        marker = read_json(path)
        missing = [pattern for pattern in marker["outputs"] if not present(pattern)]
        if missing:
            print(f"error: {path.stem} ended without an error, but {', '.join(missing)} is not there",
                  file=sys.stderr)
            return 1
        seconds = arguments.seconds / len(arguments.markers) + marker.get("seconds_before", 0.0)
        marker.update(finished=now(), seconds=round(seconds, 1), peak_mib=max(peaks))
        write_marker(path, marker)
    return 0


def times(arguments: argparse.Namespace) -> int:
    rows: dict = {}
    for folder in arguments.folders:
        for path in sorted(folder.glob("*.json")):
            marker = read_json(path)
            if marker.get("finished"):
                rows.setdefault(tuple(marker["stage"].split(" ", 1)), []).append(marker)
    lines = ["stage\tname\tseconds\tpeak_mib\tdate"]
    for (number, name), markers in sorted(rows.items()):
        peak = max(marker["peak_mib"] for marker in markers)
        lines.append(f"{number}\t{name}\t{sum(marker['seconds'] for marker in markers):.1f}\t{peak or '-'}\t"
                     f"{max(marker['finished'] for marker in markers)[:10]}")
    write(arguments.output, "\n".join(lines) + "\n")
    return 0


def complain(arguments: argparse.Namespace, changes: list, remains: list, old: dict) -> int:
    number, name = arguments.stage.split(" ", 1)
    state = "was made" if old.get("finished") else "was begun"
    print(f"error: stage {number} ({name}): {remains[0]} {state} on {old.get('finished') or old['started']} from "
          "other things than those you ask for now:\n" + "\n".join("  " + change for change in changes)
          + f"\n{arguments.remedy}\nor go on with what is there: --skip_stages {name}", file=sys.stderr)
    return 1


def differences(old: dict, new: dict) -> list:
    """What changed, for people."""
    found = []
    for label in [*new, *(label for label in old if label not in new)]:
        before, after = old.get(label, "(not there)"), new.get(label, "(not there)")
        if before == after:
            continue
        if label.startswith(AUDIO):
            scp = label.removeprefix(AUDIO)
            if label in old and old.get(scp) == new.get(scp):  # else wav.scp itself is told, or nothing is known
                found.append(f"{label}: {changed_recordings(Path(scp), before, after)}")
        elif isinstance(before, list) and isinstance(after, list):
            lines = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
            found.append(f"{label}:")
            found += [f"    {'was' if line[0] == '-' else 'now'}: {line[2:].strip()}" for line in lines]
        elif str(before).startswith("sha256:") and str(after).startswith("sha256:"):
            found.append(f"{label}: its contents changed ({before[:15]} -> {after[:15]})")
        else:
            found.append(f"{label}: {shown(before)} -> {shown(after)}")
    return found


def shown(value) -> str:
    return "a file" if isinstance(value, list) else f'"{value}"' if not value.startswith("sha256:") else value[:15]


def significant_lines(path: Path, ignored: list, above: tuple = ()):
    """The lines of a configuration without comments, empty lines and some keys (on lines of their own).

    A line `base: other.yaml` is followed by the lines of that file.
    """
    if not path.is_file():
        return "(not there)"
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not re.search(r"['\"]", line):  # a # inside quotes is no comment
            line = re.sub(r"(^|\s)#.*", "", line)
        if line.strip() and not line.lstrip().startswith("#") and key_of(line) not in ignored:
            lines.append(line.rstrip())
            base = re.match(r"""base:\s*(["']?)(\S+)\1\s*$""", line)
            if base and path.resolve() not in above:
                found = significant_lines(path.parent / base[2], ignored, (*above, path.resolve()))
                lines += found if isinstance(found, list) else [found]
    return lines


def significant(made_from: dict, words: list, ignored: list) -> dict:
    """`made_from` without some keys, in the lines of its configurations and in the values of `words`."""
    return {label: significant_words(value, ignored) if label in words
            else [line for line in value if key_of(line) not in ignored] if isinstance(value, list) else value
            for label, value in made_from.items()}


def key_of(line: str) -> str:
    return line.partition(":")[0].strip()


def significant_words(text: str, ignored: list) -> str:
    """`text` without the options `--key value` and `--key=value` of some keys."""
    try:
        words = shlex.split(text)
    except ValueError:
        return text
    significant, left_out = [], False
    for word in words:
        if word.startswith("--"):
            left_out = word[2:].partition("=")[0].rpartition(".")[2] in ignored
        if not left_out:
            significant.append(word)
    return text if len(significant) == len(words) else shlex.join(significant)


def file_digest(path: Path) -> str:
    """Of a file's contents; of more than 256 MiB, of its size and samples."""
    return "sha256:" + model_files.file_digest(path, 256 << 20)


def present(pattern: str) -> list:
    """Paths that match; a path that is there always matches itself."""
    return [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern))


def folder_digest(path: Path) -> str:
    """Of the names and contents of the files below a folder; large ones (weights) are sampled in every tensor."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and "__pycache__" not in file.parts
             and ".tmp-" not in file.name and file.name not in model_files.RECORDS)
    return "sha256:" + text_digest(f"{file.relative_to(path)} {model_files.file_digest(file)}\n" for file in files)


def write_marker(path: Path, marker: dict) -> None:
    write(path, json.dumps(marker, indent=1, ensure_ascii=False) + "\n")


def write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text)


def now() -> str:
    return time.strftime(TIME)


if __name__ == "__main__":
    tell_refusals("error", main)

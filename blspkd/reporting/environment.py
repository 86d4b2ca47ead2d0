"""What a reader of RESULTS.md needs to repeat a run: versions, processor, GPU, commit. No paths, no host names."""

import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "sentencepiece", "safetensors", "numpy",
            "soundfile", "soxr", "sacrebleu", "jiwer")


def describe_environment() -> list[tuple[str, str]]:
    """(what, value) pairs."""
    versions = [(package, _version(package)) for package in PACKAGES]
    return [("python", platform.python_version()), *versions, ("processor", _processor()), ("GPU", _gpus())]


def git_commit(folder: str | Path, but: Sequence[str | Path] = ()) -> str:
    """The commit that `folder` is at; "(with local changes)" if tracked files differ, those of `but` apart."""
    commit = _output(["git", "rev-parse", "HEAD"], folder)
    if not commit:
        return "unknown (not a git checkout)"
    top = Path(_output(["git", "rev-parse", "--show-toplevel"], folder)).resolve()
    inside = [Path(path).resolve().relative_to(top).as_posix() for path in but
              if Path(path).resolve().is_relative_to(top)]
    changes = _output(["git", "status", "--porcelain", "--untracked-files=no", "--", ".",
                       *(f":(exclude){path}" for path in inside)], top)
    return commit + (" (with local changes)" if changes else "")


def without_machine_paths(words: Sequence[str], here: str | Path) -> str:
    """A command line in which absolute paths become relative to `here`, or their last name if they lie elsewhere."""
    return shlex.join(_relative(word, Path(here).resolve()) for word in words)


def _relative(word: str, here: Path) -> str:
    option, equals, value = word.partition("=")
    if equals and os.path.isabs(value):
        return f"{option}={_relative(value, here)}"
    if " " in word and "/" in word:  # an option that holds several
        return " ".join(_relative(part, here) for part in word.split(" "))
    if not os.path.isabs(word):
        return word
    path = Path(word)
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else path.name


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text(errors="replace").splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores usable"


def _gpus() -> str:
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or "none"


def _output(command: list[str], folder: str | Path) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""

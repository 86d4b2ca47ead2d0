"""What the commands are given to listen to: files, standard input, typed texts and the microphone. Needs no torch."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blspkd.audio.microphone import LONGEST, record, recorder
from blspkd.errors import AudioError, ConfigError

STDIN = "-"


@dataclass(frozen=True)
class Input:
    """What a reply is about."""

    name: str  # as it was given
    part: dict  # of a message: {"type": "text", "text": ...} or {"type": "audio", "audio": ...}


def as_input(name: str) -> Input:
    """A recording. Raises AudioError for a file that is not there."""
    return Input(name, {"type": "audio", "audio": recording(name)})


def recording(name: str) -> Path | bytes:
    """A file's path, or the bytes that standard input has. Raises AudioError where there are none."""
    if name == STDIN:
        audio = sys.stdin.buffer.read()
        if not audio:
            raise AudioError("-: nothing came from standard input; send an audio file there")
        return audio
    if not Path(name).exists():
        raise AudioError(f"{name}: there is no such file")
    return Path(name)


def recorded(seconds: float | None) -> Input:
    """From the microphone; None: until Enter is pressed. Raises ConfigError and AudioError."""
    if seconds is not None and not 0 < seconds <= LONGEST:
        raise ConfigError(f"microphone: {seconds:g} s cannot be; give seconds above 0 and up to {LONGEST:g}, or none")
    if seconds is None and not sys.stdin.isatty():
        raise ConfigError("microphone: nobody can press Enter to stop it, since standard input is no terminal; give "
                          "seconds")
    recorder()  # before anything is told
    print("(recording; press Enter to stop)" if seconds is None else f"(recording {seconds:g} s)", file=sys.stderr)
    return Input("microphone", {"type": "audio", "audio": record(seconds, sys.stdin.readline)})


def check_names(files: Sequence[str], output: str | None) -> None:
    """Raises ConfigError where one file is asked for twice, or two would be written under one name into `output`."""
    if files.count(STDIN) > 1:
        raise ConfigError("-: standard input can be read only once")
    taken: dict[str, str] = {}
    for file in files if output is not None else ():
        other = taken.setdefault(written_name(file), file)
        if other != file:
            raise ConfigError(f"--output {output}: {other} and {file} would both be written as {written_name(file)}; "
                              "do them in two runs, with a folder each")


def written_name(file: str) -> str:
    """What the transcript of a file is called, without its ending."""
    return "stdin" if file == STDIN else Path(file).stem

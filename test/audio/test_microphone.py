"""Recording by a program that is there: stand-ins for it write what a microphone would bring."""

import numpy as np
import pytest

from blspkd.audio import microphone
from blspkd.errors import AudioError


@pytest.fixture
def program(tmp_path, monkeypatch):
    """program(name, shell lines): the only one that is installed."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def write(name: str, *lines: str) -> None:
        path = tmp_path / name
        path.write_text("\n".join(["#!/bin/sh", f'echo "$@" > {tmp_path}/asked', *lines, ""]))
        path.chmod(0o755)

    return write


@pytest.mark.parametrize("name", microphone.COMMANDS)
def test_so_many_seconds_are_recorded(program, tmp_path, name):
    program(name, "exec /bin/cat /dev/zero")
    rate, samples = microphone.record(0.25)
    assert (rate, samples.dtype, len(samples)) == (16000, np.int16, 4000)
    assert (tmp_path / "asked").read_text().split() == microphone.COMMANDS[name]


def test_a_program_that_begins_late_is_waited_for(program):
    program("arecord", "/bin/sleep 0.8", "exec /bin/cat /dev/zero")
    assert len(microphone.record(0.25)[1]) == 4000


def test_a_recording_ends_when_somebody_says_so(program):
    program("arecord", "exec /bin/cat /dev/zero")
    assert len(microphone.record(None, lambda: None)[1]) > 0


def test_without_a_program_the_message_names_them(program):
    with pytest.raises(AudioError, match="install arecord .*parec .*ffmpeg"):
        microphone.record(1.0)


def test_what_the_program_says_is_told(program):
    program("arecord", "echo 'audio open error: No such device' >&2", "exit 1")
    for seconds in (1.0, None):
        with pytest.raises(AudioError, match="arecord cannot record: audio open error: No such device"):
            microphone.record(seconds, lambda: pytest.fail("nobody has to stop what has ended"))

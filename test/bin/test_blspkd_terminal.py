"""A conversation in a real terminal: what is typed, Tab, Ctrl-C in a reply and at the prompt, Ctrl-D."""

import os
import pty
import re
import select
import signal
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Terminal:
    """`blspkd` with the far end of a terminal."""

    def __init__(self, *words, columns: int = 200):
        self.shown = ""
        self.process, self.end = pty.fork()
        if not self.process:
            os.chdir(ROOT)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests that run in the background ignore it
            os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TERM="dumb", COLUMNS=str(columns))
            os.execv(sys.executable, [sys.executable, "-m", "blspkd.bin.blspkd", *map(str, words)])

    def wait_for(self, pattern: str, seconds: float = 120) -> str:
        """What appeared up to `pattern`, which must come; it is used up."""
        until = time.monotonic() + seconds
        while not (found := re.search(pattern, self.shown)):
            ready, _, _ = select.select([self.end], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"no {pattern!r} came, but {self.shown[-2000:]!r}"
            try:
                self.shown += os.read(self.end, 1 << 12).decode("utf-8", "replace")
            except OSError:  # the process has ended
                raise AssertionError(f"it ended before {pattern!r}: {self.shown[-2000:]!r}") from None
        before, self.shown = self.shown[:found.end()], self.shown[found.end():]
        return before

    def type(self, text: str) -> None:
        os.write(self.end, text.encode())

    def interrupt(self, pattern: str) -> None:
        """Ctrl-C; once more where it came between a look at signals and the wait for a key, as a person would."""
        for _ in range(4):
            self.type("\x03")
            until = time.monotonic() + 15
            while time.monotonic() < until:
                if re.search(pattern, self.shown):
                    self.wait_for(pattern)
                    return
                if select.select([self.end], [], [], 0.2)[0]:
                    self.shown += os.read(self.end, 1 << 12).decode("utf-8", "replace")
        self.wait_for(pattern, 1)

    def status(self, seconds: float = 60) -> int:
        """The exit status, once it has ended."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if select.select([self.end], [], [], 0.05)[0]:
                try:
                    self.shown += os.read(self.end, 1 << 12).decode("utf-8", "replace")
                except OSError:
                    pass
            process, status = os.waitpid(self.process, os.WNOHANG)
            if process:
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"it does not end: {self.shown[-2000:]!r}")


@pytest.fixture
def terminal():
    opened = []

    def start(*words) -> Terminal:
        opened.append(Terminal(*words))
        return opened[-1]

    yield start
    for started in opened:
        try:
            os.kill(started.process, 9)
            os.waitpid(started.process, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(started.end)


def test_a_conversation(terminal, trained, recordings, model):
    talk = terminal("chat", trained, "--device", "cpu", "--max_new_tokens", "12", "-i", "Go on:")
    talk.wait_for("> ")
    talk.type("/help\n")
    talk.wait_for("/mic")
    talk.wait_for("> ")
    talk.type("/audio nowhere.wav\n")
    talk.wait_for("error: nowhere.wav: there is no such file")
    talk.wait_for("> ")
    talk.type(f"/audio {str(recordings[0])[:-5]}\t\n")  # Tab completes one.wav
    talk.wait_for(r"one\.wav, 0\.9 s")
    talk.wait_for(r"\[1 attached\] > ")
    talk.type("\n")  # alone, with the instruction
    first = model.chat([{"role": "user", "content": [{"type": "text", "text": "Go on:"},
                                                     {"type": "audio", "audio": recordings[0]}]}], max_new_tokens=12)
    shown = talk.wait_for(r"\(stopped after 12 tokens")
    assert as_shown(first.text) in shown.replace("\r\n", "\n")
    talk.wait_for("> ")
    talk.type("and then?\n")
    second = model.chat([{"role": "user", "content": [{"type": "text", "text": "Go on:"},
                                                      {"type": "audio", "audio": recordings[0]}]},
                         {"role": "assistant", "content": first.text}, {"role": "user", "content": "and then?"}],
                        max_new_tokens=12)
    assert as_shown(second.text) in talk.wait_for(r"\(stopped after").replace("\r\n", "\n")
    talk.wait_for("> ")
    talk.type("/new\n")
    talk.wait_for("a new conversation")
    talk.wait_for("> ")
    talk.type("and then?\n")
    alone = model.chat([{"role": "user", "content": "and then?"}], max_new_tokens=12)
    assert as_shown(alone.text) in talk.wait_for(r"\(stopped after").replace("\r\n", "\n")
    talk.wait_for("> ")
    talk.type("/sing\n")
    talk.wait_for("error: /sing: there is no such command")
    talk.wait_for("> ")
    talk.type("/quit\n")
    assert talk.status() == 0


def as_shown(text: str) -> str:
    """Without what `say` keeps from a terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)


def test_ctrl_c_cancels_a_reply_and_ctrl_d_ends(terminal, trained):
    talk = terminal("chat", trained, "--device", "cpu", "--max_new_tokens", "400")
    talk.wait_for("> ")
    talk.interrupt(r"Ctrl-D or /quit ends")
    talk.wait_for("> ")
    talk.type("a nurse saw the old house\n")
    talk.wait_for(r"house\r\n.")  # the first piece of the reply
    talk.interrupt(r"cancelled; that turn is forgotten")
    talk.wait_for("> ")
    talk.type("\x04")
    assert talk.status() == 0


def test_ctrl_c_ends_a_single_reply_with_status_130(terminal, trained):
    talk = terminal("chat", trained, "--text", "a nurse", "--device", "cpu", "--max_new_tokens", "400")
    talk.wait_for(r"\S")
    talk.type("\x03")
    assert talk.status() == 130

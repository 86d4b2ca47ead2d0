"""A job's output on its way to the log: lines are kept, of a progress bar only the last state."""

import collections
import re
from pathlib import Path

LAST_LINES = 30  # shown of a failed job
ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")  # cursor movements and colours
# A bar that a message was printed behind: `... 3/10 [00:01<00:02, 3.0it/s]message`
BAR_AND_MESSAGE = re.compile(rb"^.*%\|.*\| *[^ |]+/[^ |]+ \[[^\]]*\](?=\S)")


class JobOutput:
    """Splits a stream at newlines (log lines) and carriage returns (states of a bar)."""

    def __init__(self, log: Path):
        self.file = open(log, "ab" if was_interrupted(log) else "wb")
        self.last_lines: collections.deque = collections.deque(maxlen=LAST_LINES)
        self.new_lines: list = []  # since somebody last took them; for run.py --screen
        self._line = b""  # what stands on the current line, terminal-wise
        self._bar = b""  # the last complete state of the bar on it
        self._in_bar = False

    def note(self, text: str) -> None:
        """Write a remark of the runner's own."""
        self._put(text.encode())

    def feed(self, data: bytes) -> None:
        for piece in re.split(rb"([\r\n])", data):
            if piece == b"\n":
                self._write(self._line or self._bar)
                self._line, self._bar, self._in_bar = b"", b"", False
            elif piece == b"\r":
                if self._line:
                    self._bar = self._line if self._line.strip() else b""
                self._line, self._in_bar = b"", True
            else:
                self._line += piece

    @property
    def bar(self) -> str:
        """The bar as a terminal would show it; empty when there is none."""
        state = self._line if self._line.strip() else self._bar
        return clean(state).decode(errors="replace").strip() if self._in_bar else ""

    def close(self, account: str) -> None:
        if (self._line or self._bar).strip():
            self._write(self._line or self._bar)
        self.note(account)
        self.file.close()

    def _put(self, data: bytes) -> None:
        try:
            self.file.write(data)
            self.file.flush()
        except OSError as error:
            error.filename = self.file.name
            raise

    def _write(self, line: bytes) -> None:
        line = BAR_AND_MESSAGE.sub(b"", clean(line)).rstrip()
        self._put(line + b"\n")
        text = line.decode(errors="replace")
        self.new_lines.append(text)
        self.last_lines.append(text)


def was_interrupted(log: Path) -> bool:
    """Is there a log of a job that failed or was killed? The next attempt is written below it."""
    if not log.is_file():
        return False
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 200))
        return b"\n# Ended (code 0)" not in file.read()


def clean(line: bytes) -> bytes:
    return ESCAPES.sub(b"", line)

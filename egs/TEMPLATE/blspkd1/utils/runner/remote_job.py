"""A job of slurm.py as it is seen from here: through files that the node it runs on writes."""

import re
import shlex
import signal
from pathlib import Path

from runner.account import failure, reason_of
from runner.output import LAST_LINES

TAIL_BYTES = 20_000


class RemoteOutput:
    """What Screen shows of a job."""

    def __init__(self):
        self.bar = ""
        self.new_lines: list = []


class RemoteJob:
    """attempts: file that attempt.py writes; slurm_output: what Slurm itself has to say."""

    def __init__(self, number: int, log: str, words: list, attempts: Path, slurm_output: Path):
        self.number = number
        self.log = Path(log)
        self.words = words
        self.attempts = attempts
        self.slurm_output = slurm_output
        self.output = None  # RemoteOutput, from its first attempt on
        self.status = None  # exit status; negative: the signal that killed it; None: not ended, or never started
        self.dropped = False  # cancelled before it started, or while it waited because another one had failed
        self.reason = ""  # why Slurm ended it
        self.requeues = 0  # by attempt.py, as far as we have seen
        self.retries = 0  # by us: Slurm ended it, and attempt.py could not say anything
        self.silent_since = None  # Slurm says that it has ended, and its file does not say so yet
        self._read_bytes = 0  # of the log, shown already

    @property
    def over(self) -> bool:
        return self.status is not None or self.dropped

    def look(self, echo: bool) -> int:
        """Read the files; returns how often it went back into the queue since the last look."""
        if self.slurm_output.exists():
            self.output = self.output or RemoteOutput()
            bars = re.findall(r" \(run\.py\) (.*)", _tail(self.slurm_output))
            self.output.bar = bars[-1] if bars else ""
        if echo and self.output and self.log.exists():
            self._read_on()
        lines = self.attempts.read_text().split("\n")[:-1] if self.attempts.exists() else []
        again = sum(line.endswith(" again") for line in lines)
        ends = [int(line.split()[0]) for line in lines if line.endswith(" ended")]
        if ends:
            self.end(ends[-1])
        elif lines and lines[-1].endswith(" dropped"):
            self.dropped = True
        new, self.requeues = again - self.requeues, again
        return new

    def end(self, status: int, reason: str = "") -> None:
        """status: as a shell tells it; reason: of an end that Slurm made."""
        self.status = 128 - status if status > 128 and status - 128 in set(signal.Signals) else status
        self.reason = reason

    def failure(self) -> str:
        lines = _tail(self.log).split("\n") if self.log.exists() else []
        starts = [number for number, line in enumerate(lines) if line.startswith("# Started on ")]
        lines = [line for line in lines[max(starts, default=0):] if line and not re.match(r"#( |$)", line)]
        if not lines and self.slurm_output.exists():  # it did not come to its command
            lines = _tail(self.slurm_output).splitlines()
        log = f"{self.log}\nSlurm: {self.slurm_output}"
        return failure(self, self.reason or reason_of(self.status), lines[-LAST_LINES:], log,
                       shlex.join(self.words))

    def code_in_log(self) -> int | None:
        """The exit status with which its last attempt ended."""
        codes = re.findall(r"^# (?:Started on|Ended \(code (-?\d+)\))", _tail(self.log), re.MULTILINE) \
            if self.log.exists() else []
        return int(codes[-1]) if codes and codes[-1] else None

    def peak_mib(self) -> int:
        peaks = re.findall(r"^# Accounting: .* peak_memory=(\d+) MiB", _tail(self.log), re.MULTILINE) \
            if self.log.exists() else []
        return max(map(int, peaks), default=0)

    def _read_on(self) -> None:
        with open(self.log, "rb") as file:
            file.seek(self._read_bytes)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read_bytes += len(whole) + len(newline)
        self.output.new_lines += [line for line in whole.decode(errors="replace").splitlines()
                                  if not re.match(r"#( |$)", line)]


def _tail(path: Path) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode(errors="replace")

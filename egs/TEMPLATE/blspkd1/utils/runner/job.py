"""One job of run.py: a process group, its output on the way to its log, and its account when it ends."""

import os
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path

from runner.account import failure, now, reason_of
from runner.memory import usage_mib
from runner.output import JobOutput


class Job:
    """A command that runs in a session of its own, so that all of it can be told to stop."""

    def __init__(self, number: int, log: str, words: list):
        self.number = number
        self.log = Path(log)
        self.words = words
        self.environment: dict = {}  # what differs from our own
        self.gpus: list = []
        self.process = None
        self.output = None
        self.at_end = False  # of the output
        self.status = None  # exit status; negative: the signal that killed it; None: not ended, or never started
        self.peak_mib = 0

    @property
    def command_line(self) -> str:
        """The command as one types it in a shell."""
        settings = [f"{key}={shlex.quote(value)}" for key, value in self.environment.items() if key != "BLSPKD_LIVE"]
        return " ".join(settings + [shlex.join(self.words)])

    def start(self) -> None:
        """Start the process. One that cannot be started has ended at once, with a shell's status for that."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.output = JobOutput(self.log)
        self.output.note(f"# {self.command_line}\n# Started on {socket.gethostname()} in {os.getcwd()} at {now()}\n#\n")
        self.started = time.monotonic()
        try:
            self.process = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                            stderr=subprocess.STDOUT, start_new_session=True,
                                            env={**os.environ, **self.environment})
            os.set_blocking(self.process.stdout.fileno(), False)
        except OSError as error:
            self.output.feed(f"cannot start {self.words[0]}: {error.strerror}\n".encode())
            self.status = 127 if isinstance(error, FileNotFoundError) else 126
            self._account()

    def read(self) -> bool:
        """Take what the process has written; False at the end of its output."""
        try:
            data = os.read(self.process.stdout.fileno(), 1 << 16)
        except BlockingIOError:
            return True
        self.at_end = not data
        self.output.feed(data)
        return not self.at_end

    def ended(self) -> bool:
        """Look whether the process has ended; then `status` and `peak_mib` are known."""
        if self.status is None:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.status = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
                self.process.returncode = self.status
                self.peak_mib = usage_mib(usage)
        return self.status is not None

    def close(self) -> None:
        """After the end: tell processes that it left behind to stop, take the rest of the output, close the log."""
        signal_group(self.process.pid, signal.SIGTERM)
        deadline = time.monotonic() + 1
        while not self.at_end and time.monotonic() < deadline:
            if self.read():
                time.sleep(0.001)
        self.process.stdout.close()
        self._account()

    def failure(self) -> str:
        """Why it failed, the end of its log, and how to run it again."""
        return failure(self, reason_of(self.status), self.output.last_lines, self.log, self.command_line)

    def _account(self) -> None:
        seconds = time.monotonic() - self.started
        self.output.close(f"# Accounting: time={seconds:.1f} threads=1 peak_memory={self.peak_mib} MiB\n"
                          f"# Ended (code {self.status}) at {now()}, elapsed time {seconds:.1f} seconds\n")


def signal_group(leader: int, number: int) -> None:
    """Send a signal to all processes of the group that `leader` leads, if there are any."""
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        pass

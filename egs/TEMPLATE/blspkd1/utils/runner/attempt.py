#!/usr/bin/env python3
"""One attempt at a job of slurm.py, on the node that Slurm gave it; the last line of the scripts that slurm.py writes.

    attempt.py SCRIPT STATE --nodes N --first N --requeues N --retries N [--keep_going]

`bash SCRIPT NUMBER` does the work of job NUMBER, in its log. Before a time limit Slurm sends us SIGUSR1, which we pass
on. A job that ends with status 75 (a signal has stopped it), or with any failure after that signal, goes back into the
queue; so does one that was killed (SIGKILL: a machine without memory), RETRIES times. One that was cancelled (SIGTERM)
does not. STATE.NUMBER.attempts has a line for every attempt: its exit status, and `again` or `ended`. Without
--keep_going a failure also leaves STATE.failed, and a job that Slurm starts after that does nothing but say `dropped`:
Slurm starts the next one at once, before slurm.py could take it out of the queue. With several nodes, `srun` starts one
job on each, and all of them begin again together.
"""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from runner.account import STOPPED  # noqa: E402

KILLED = 128 + signal.SIGKILL


class Attempt:
    """Runs the command; the signals that arrived meanwhile are known afterwards."""

    def __init__(self, command: list):
        self.command = command
        self.warned = False  # the time is running out
        self.cancelled = False
        self._process = None

    def run(self) -> int:
        """Exit status as a shell tells it."""
        signal.signal(signal.SIGUSR1, self._warn)
        signal.signal(signal.SIGTERM, self._cancel)
        self._process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL)
        if self.warned:  # before there was a process
            self._process.send_signal(signal.SIGUSR1)
        status = self._process.wait()
        return status if status >= 0 else 128 - status

    def _warn(self, number: int, frame: object) -> None:
        self.warned = True
        if self._process:
            self._process.send_signal(number)

    def _cancel(self, number: int, frame: object) -> None:
        self.cancelled = True  # Slurm tells all processes of the job itself


def command(script: str, first: int, nodes: int) -> list:
    """What does the work: of this task of an array, or of all machines that work together."""
    if nodes == 1:
        return ["bash", script, str(number(first))]
    step = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1",
            f"--cpus-per-task={os.environ.get('SLURM_CPUS_PER_TASK', '1')}", "--kill-on-bad-exit=0", "--wait=0"]
    return [*step, "bash", "-c", 'exec bash "$1" $((SLURM_PROCID + $2))', "bash", script, str(first)]


def number(first: int) -> int:
    return int(os.environ.get("SLURM_ARRAY_TASK_ID", first))


def slurm_name() -> str:
    """The name of this job alone: the number of an array's last task is also that of the whole array."""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def goes_again(status: int, warned: bool, before: list, options: argparse.Namespace) -> bool:
    """before: exit statuses of the attempts that were followed by another."""
    if status == STOPPED or (warned and status != 0):
        return len(before) < options.requeues
    return status == KILLED and before.count(KILLED) < options.retries


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("script")
    parser.add_argument("state")
    for name in ("nodes", "first", "requeues", "retries"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--keep_going", action="store_true")
    options = parser.parse_args()
    failed = Path(f"{options.state}.failed")
    attempts = Path(f"{options.state}.{number(options.first)}.attempts")
    before = [int(line.split()[0]) for line in attempts.read_text().splitlines()] if attempts.exists() else []
    if failed.exists():
        _add_line(attempts, "1 dropped")
        return 1

    attempt = Attempt(command(options.script, options.first, options.nodes))
    status = attempt.run()
    if attempt.cancelled:
        return status  # slurm.py asks Slurm whether that was the time limit, a preemption, or somebody
    again = goes_again(status, attempt.warned, before, options)
    if status != 0 and not again and not options.keep_going:
        failed.touch()
    _add_line(attempts, f"{status} {'again' if again else 'ended'}")
    if again:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a requeue ends the job that asks for it
        if subprocess.run(["scontrol", "requeue", slurm_name()], check=False).returncode != 0:
            _add_line(attempts, f"{status} ended")
    return status


def _add_line(path: Path, line: str) -> None:
    with open(path, "a", encoding="ascii") as file:
        file.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())

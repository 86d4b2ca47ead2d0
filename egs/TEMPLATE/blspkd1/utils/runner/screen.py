"""What run.py and slurm.py show while jobs run: one live line on a terminal, else a line now and then."""

import os
import re
import shutil
import sys
import time

from runner.account import now
from runner.request import program

LIVE_SECONDS = 0.3
PLAIN_SECONDS = 30
BAR = re.compile(r"(?P<what>.*?):? *(?P<percent>\d+)%\|.*\| *(?P<done>\S+)/(?P<total>\S+) "
                 r"\[(?P<elapsed>[\d:]+)<(?P<left>[\d:?]+)")


class Screen:
    """Writes messages to stdout (errors to stderr) and progress to stderr."""

    def __init__(self, echo: bool = False):
        self.echo = echo
        # A run.py above us that writes to a terminal says so: then our bars travel through it.
        self.live = sys.stderr.isatty() or "BLSPKD_LIVE" in os.environ
        self._columns = int(os.environ.get("BLSPKD_LIVE", 0)) or shutil.get_terminal_size((100, 24)).columns
        self._started = time.monotonic()
        self._next = self._started + (LIVE_SECONDS if self.live else PLAIN_SECONDS)
        self._shown = ""

    def environment(self) -> dict:
        """Variables for the jobs."""
        return {"BLSPKD_LIVE": str(self._columns)} if self.live else {}

    def say(self, text: str, error: bool = False) -> None:
        self._erase()
        print(text, file=sys.stderr if error else sys.stdout, flush=True)

    def show(self, jobs: list, otherwise: str = "") -> None:
        """Show the jobs' new lines (with `echo`) and, when it is time, their progress; `otherwise`: without bars."""
        for job in jobs:
            if job.output:
                lines, job.output.new_lines = job.output.new_lines, []
                if self.echo and lines:
                    self.say("\n".join(lines))
        if time.monotonic() < self._next:
            return
        text = summary(jobs, time.monotonic() - self._started) or otherwise
        if self.live:
            self._next = time.monotonic() + LIVE_SECONDS
            if text != self._shown:
                self._erase()
                sys.stderr.write(f"\r{text[:self._columns - 1]}")
                sys.stderr.flush()
                self._shown = text
        elif text:
            self._next = time.monotonic() + PLAIN_SECONDS
            print(f"{now()} ({program()}) {text}", file=sys.stderr, flush=True)

    def _erase(self) -> None:
        if self._shown:
            sys.stderr.write("\r" + " " * min(len(self._shown), self._columns - 1) + "\r")
            sys.stderr.flush()
            self._shown = ""


def summary(jobs: list, seconds: float) -> str:
    """The jobs' bars as one: that of a single job as it is, those of several added up."""
    if len(jobs) == 1:
        return jobs[0].output.bar if jobs[0].output and jobs[0].status is None else ""
    running = [job for job in jobs if job.output and job.status is None]
    bars = [found for found in (BAR.search(job.output.bar) for job in running) if found]
    if not bars:
        return ""
    ended = sum(job.status is not None for job in jobs)
    share = (ended + sum(int(bar["percent"]) for bar in bars) / 100) / len(jobs)
    filled = int(20 * share)
    state = f"{len(running)} running, {ended} of {len(jobs)} done"
    left = clock(seconds / share * (1 - share)) if share else "?"
    return (f"{bars[0]['what']}: {100 * share:3.0f}%|{'#' * filled}{' ' * (20 - filled)}| {state} "
            f"[{clock(seconds)}<{left}]")


def clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"

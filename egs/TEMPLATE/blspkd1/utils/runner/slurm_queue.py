"""What Slurm is told and asked about jobs: sbatch, squeue, scontrol, scancel."""

import os
import subprocess
import sys
import time

# Everything else is an end.
ALIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING",
         "STAGE_OUT", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
CANCEL_SECONDS = 90  # Slurm gives processes 30 s between SIGTERM and SIGKILL
OURS = ("BLSPKD_PID", "BLSPKD_LIVE", "BLSPKD_PEAK_FILE")  # what processes on this machine tell one another


def submit(arguments: list) -> int:
    """sbatch; returns the number. Raises RuntimeError with what sbatch said."""
    inside = "SLURM_JOB_ID" in os.environ  # what describes the job that we are in does not describe the new one
    environment = {name: value for name, value in os.environ.items() if name not in OURS
                   and not (inside and name.startswith("SLURM_") and name not in ("SLURM_CONF", "SLURM_CLUSTERS"))}
    try:  # in a session of its own: a Ctrl-C must not hit it after it has submitted and before it tells the number
        done = subprocess.run(["sbatch", "--parsable", *arguments], env=environment, capture_output=True, text=True,
                              check=False, start_new_session=True)
    except FileNotFoundError:
        raise RuntimeError("sbatch is not there; on a machine without Slurm, cmd.sh names utils/run.py") from None
    number = done.stdout.strip().partition(";")[0]
    if done.returncode != 0 or not number.isdigit():
        raise RuntimeError(f"sbatch {' '.join(arguments)}\n{done.stderr.strip()}")
    sys.stderr.write(done.stderr)
    return int(number)


class SlurmQueue:
    """The number that sbatch gave, and the job's name: numbers come again when a cluster is set up anew."""

    def __init__(self, job: int, name: str):
        self.job = job
        self.name = name

    def states(self) -> dict | None:
        """Array index, or None for what is no array -> (state, reason), of what Slurm still knows; None: no answer."""
        done = _ask("squeue", "--noheader", "--array", "--states=all", "--me", f"--name={self.name}",
                    f"--jobs={self.job}", "--format=%K|%T|%r")
        if done.returncode != 0:
            return {} if "Invalid job id" in done.stderr else None
        states = {}
        for line in done.stdout.splitlines():
            index, state, reason = line.split("|", 2)
            states[int(index) if index.isdigit() else None] = (state, reason)
        return states

    def alive(self) -> bool:
        """Does any of it wait or run? Also when Slurm does not answer."""
        states = self.states()
        return states is None or any(state in ALIVE for state, _ in states.values())

    def requeue(self, index: int | None) -> bool:
        """Start an ended job again; False if Slurm will not."""
        return _ask("scontrol", "requeue", str(self.job) if index is None else f"{self.job}_{index}").returncode == 0

    def cancel_waiting(self) -> None:
        _ask("scancel", "--state=PENDING", str(self.job))

    def cancel(self, patience: float = CANCEL_SECONDS, hurry: list = ()) -> None:
        """Cancel all of it and wait until nothing is left, or `hurry` gets longer."""
        told = len(hurry)
        deadline = time.monotonic() + patience
        _ask("scancel", str(self.job))
        while self.alive() and time.monotonic() < deadline and len(hurry) == told:
            time.sleep(0.5)


def cancel_all(jobs: set) -> None:
    """For the watchdog."""
    if jobs:
        _ask("scancel", *map(str, jobs))


def _ask(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
                          start_new_session=True)

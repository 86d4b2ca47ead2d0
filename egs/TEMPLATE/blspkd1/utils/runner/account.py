"""What run.py and slurm.py say about jobs that have ended, and the exit status that follows."""

import os
import shlex
import signal
import time

from runner.request import Request, program

STOPPED = 75  # exit status of a training that a signal has stopped: the same command goes on later (EX_TEMPFAIL)


def may_start(failed: list, keep_going: bool) -> bool:
    """Whether waiting jobs may start: who stops one wants the machine."""
    return (keep_going or not failed) and all(job.status != STOPPED for job in failed)


def failure(job, reason: str, last_lines: list, log: object, command_line: str) -> str:
    """Why a job failed, the end of its log, and how to run it again."""
    if job.status == STOPPED:
        why = "" if reason == reason_of(STOPPED) else f", {reason}"
        return (f"{now()} ({program()}) job {job.number} was told to stop{why}; the same command goes on later: "
                f"{job.log}")
    path = ". ./path.sh && " if os.path.exists("path.sh") else ""
    return "\n".join([f"{program()}: job {job.number} failed: {reason}; its last lines:", *last_lines, "",
                      f"log:   {log}",
                      f"rerun: cd {shlex.quote(os.getcwd())} && {path}{command_line}"])


def reason_of(status: int) -> str:
    """An exit status in words; a negative one is the signal that killed the job."""
    if status >= 0:
        return f"exit status {status}"
    return f"killed by {signal.Signals(-status).name}" + (" (out of memory?)" if status == -signal.SIGKILL else "")


def conclude(screen, request: Request, jobs: list, failed: list, seconds: float) -> int:
    """The last words on jobs that have a `number` and a `status` (None: not started); returns our exit status."""
    if failed:
        for what, some in (("also failed", failed[1:]), ("not started", [job for job in jobs if job.status is None])):
            if some:
                screen.say(f"{what}: job {', '.join(str(job.number) for job in some)}", error=True)
        return exit_status(failed, len(jobs))
    screen.say(f"{now()} ({program()}) {len(jobs)} job{'s' if len(jobs) > 1 else ''} done in {seconds:.0f} s: "
               f"{request.logs}")
    return 0


def exit_status(failed: list, num_jobs: int) -> int:
    """Ours, which tells whether another attempt is worth it."""
    if not may_start(failed, keep_going=True):
        return STOPPED
    status = failed[0].status if num_jobs == 1 else 1
    if status < 0:
        return 128 - status
    return status if status > 128 else 1  # more than 128: what a shell says of a signal


def stopped(screen, number: int) -> int:
    """The last words when a signal has told us to stop; returns our exit status."""
    screen.say(f"{now()} ({program()}) stopped by {signal.Signals(number).name}; the same command goes on from here",
               error=True)
    return 128 + number


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")

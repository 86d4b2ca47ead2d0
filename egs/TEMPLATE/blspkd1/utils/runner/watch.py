"""slurm.py between sbatch and the end of the last job."""

import time

from runner.account import now
from runner.memory import note_alive, record_peak
from runner.remote_job import RemoteJob
from runner.request import count, program
from runner.screen import Screen
from runner.slurm_queue import ALIVE, SlurmQueue
from runner.stop import Stopped, StopSignals
from runner.submission import Submission

LOOK_SECONDS = 0.5  # between two looks at the files of 50 jobs
ASK_SECONDS = (2, 15)  # between two questions to Slurm: at first, and later
SILENT_SECONDS = 5  # a file that a node wrote may take so long to be seen here
# Ends that Slurm made, after which another attempt may do better. attempt.py sees to those that it survives.
RETRIED = {"FAILED", "NODE_FAIL", "BOOT_FAIL", "TIMEOUT", "PREEMPTED"}
LATE = {"FAILED", "COMPLETED", ""}  # ends that a file may tell of, which is not to be seen yet
REASONS = {"CANCELLED": "cancelled in Slurm (scancel)", "OUT_OF_MEMORY": "out of memory; --mem asks for more",
           "TIMEOUT": "the time limit came before it had saved its work; --signal B:USR1@600 warns it earlier",
           "": "Slurm knows it no more"}


class Watch:
    """Waits for the jobs, tells what happens to them, and starts again those that Slurm ended.

    Files tell of an end at once, and squeue, asked now and then, of those that could not write any.
    """

    def __init__(self, submission: Submission, queue: SlurmQueue, jobs: list, screen: Screen):
        options = submission.request.options
        self.queue, self.jobs, self.screen = queue, jobs, screen
        self.is_array = submission.is_array
        self.keep_going = options.get("keep_going") == "true"
        self.retries = count(options, "retries", 2, 0)
        self.failed: list = []
        self._states: dict = {}
        self._waited: list = []  # when one failed; they were taken out of the queue

    def run(self, stop_signals: StopSignals) -> list:
        """Returns the jobs that failed, in the order of failing. Raises Stopped."""
        started = time.monotonic()
        next_look = next_question = 0.0
        while not all(job.over for job in self.jobs):
            if time.monotonic() > next_look:
                self._look()
                note_alive()
                next_look = time.monotonic() + LOOK_SECONDS * max(1, len(self.jobs) / 50)
            if time.monotonic() > next_question:
                self._ask()
                seconds = min(ASK_SECONDS[1], max(ASK_SECONDS[0], (time.monotonic() - started) / 10))
                next_question = time.monotonic() + seconds
            self.screen.show(self.jobs, self._summary())
            if stop_signals.look():
                self.queue.cancel(hurry=stop_signals.received)
                raise Stopped(stop_signals.received[0])
            time.sleep(0.1)
        self.screen.show(self.jobs)
        for job in [job for job in self.jobs if job.dropped and not self.failed]:  # somebody cancelled it in the queue
            job.end(1, REASONS["CANCELLED"])
            self._ended([job])
        record_peak(max(job.peak_mib() for job in self.jobs))
        return self.failed

    def _units(self) -> list:
        """The jobs that Slurm tells apart, and all jobs of each: machines that work together are one."""
        return [(job, [job]) for job in self.jobs] if self.is_array else [(self.jobs[0], self.jobs)]

    def _look(self) -> None:
        """At the files that the nodes write."""
        for first, members in self._units():
            if first.over:
                continue
            again = [job.look(self.screen.echo) for job in members][0]
            if again and not first.over:
                self.screen.say(f"{now()} ({program()}) job {first.number} goes back into the queue, to go on there")
            if first.over:
                self._ended(members)

    def _ended(self, members: list) -> None:
        """The logs know more of a failure: the command's own status, and which of the machines it was."""
        codes = {job: job.code_in_log() for job in members}
        if members[0].status != 0 and any(codes.values()):
            for job in members:
                job.end(members[0].status if codes[job] is None else codes[job], job.reason)
        failed = [job for job in members if job.status != 0]
        if failed and not self.keep_going and not self.failed and self.is_array:
            self._drop_waiting()
        for job in failed:
            self.failed.append(job)
            if self.keep_going or len(self.failed) == 1:
                self.screen.say(job.failure(), error=True)

    def _ask(self) -> None:
        """Slurm, for ends that no file tells of."""
        states = self.queue.states()
        if states is None:  # no answer; the next time
            return
        self._states = states
        for first, members in self._units():
            if first.over:
                continue
            state = self._state(first)[0]
            if state in ALIVE:
                first.silent_since = None
            elif state == "CANCELLED" and (first in self._waited or first.output is None):
                first.dropped = True
            elif state in LATE and first.silent_since is None:
                first.silent_since = time.monotonic()
            elif state not in LATE or time.monotonic() > first.silent_since + SILENT_SECONDS:
                self._settle(first, members, state)

    def _drop_waiting(self) -> None:
        """Other jobs start no more when one has failed."""
        states = self.queue.states() or {}
        self._waited = [job for job in self.jobs if states.get(job.number, ("", ""))[0] == "PENDING"]
        self.queue.cancel_waiting()

    def _settle(self, first: RemoteJob, members: list, state: str) -> None:
        if state in RETRIED and first.retries < self.retries and self.queue.requeue(
                first.number if self.is_array else None):
            first.retries += 1
            first.silent_since = None
            self.screen.say(f"{now()} ({program()}) job {first.number} was ended by Slurm ({state}); it starts again")
            return
        for job in members:
            job.end(0 if state == "COMPLETED" else 1, REASONS.get(state, f"Slurm says {state}"))
        self._ended(members)

    def _state(self, job: RemoteJob) -> tuple:
        return self._states.get(job.number if self.is_array else None, ("", ""))

    def _summary(self) -> str:
        """Of jobs without a bar."""
        states = [self._state(first) for first, _ in self._units() if not first.over]
        reasons = sorted({reason for state, reason in states if state == "PENDING" and reason not in ("", "None")})
        counts = {"running": sum(state != "PENDING" for state, _ in states),
                  "waiting": sum(state == "PENDING" for state, _ in states)}
        text = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
        why = f" ({', '.join(reasons)})" if reasons else ""
        return f"{text}{why}, {sum(job.over for job in self.jobs)} of {len(self.jobs)} done"

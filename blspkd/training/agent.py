"""torchrun's agent, which starts the processes of one machine, with what a training needs beyond it.

Processes that die are started again, all of them, and go on from the last checkpoint: torchrun does that. It does it
also for a mistake in the configuration, which comes again, and for processes that a signal has stopped, which is what
somebody wanted; here both end the run. A signal to the agent reaches every process, and nobody kills them while they
write their checkpoint.
"""

import math
import os
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.distributed.elastic.agent.server import WorkerGroup, WorkerState
from torch.distributed.elastic.agent.server.api import RunResult
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousClosedError
from torch.distributed.launcher import api
from torch.distributed.run import parse_args, run

from blspkd.errors import REFUSED, STOPPED
from blspkd.training.signals import SIGNALS

USAGE = 2  # exit status of argparse, where an option is missing or mistyped
WANTED = {STOPPED, *(-number for number in SIGNALS)}  # exit statuses of processes that somebody stopped
SETTLED = 1  # seconds after a failure, for the one that is its cause to be seen, too
PATIENCE = 5  # seconds for a process to be gone that was killed
LEFT_SECONDS = 60  # for our processes to end by themselves, after another machine has ended the training
OTHER = "another machine has ended the training; its log says why"


class Agent(LocalElasticAgent):
    """Starts processes again unless they would, or should, end in the same way."""

    told = 0  # the last signal that somebody sent to us
    ended: dict[int, int] = {}  # local rank -> exit status of the processes that failed, before we killed the others
    left = 0.0  # when we saw that another machine has ended the training

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for number in SIGNALS:
            signal.signal(number, self._pass_on)

    def _pass_on(self, number: int, frame: object) -> None:
        Agent.told = number
        if not self._pcontext:  # other machines are still being waited for
            sys.exit(STOPPED)
        for process in self._pcontext.subprocess_handlers.values():
            process.proc.send_signal(number)

    def _start_workers(self, worker_group: WorkerGroup) -> dict:
        started = super()._start_workers(worker_group)
        close = self._pcontext.close
        # where one has died, the others wait for it, and may do so where no milder signal reaches them
        self._pcontext.close = lambda *args, **kwargs: close(signal.SIGKILL, PATIENCE)
        if self.told:  # while there were none
            self._pass_on(self.told, None)
        return started

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        statuses = self._statuses()
        if any(statuses.values()):
            time.sleep(SETTLED)
            Agent.ended = {local_rank: status for local_rank, status in self._statuses().items() if status}
        elif None in statuses.values():
            self._end_where_others_have(worker_group)
            return RunResult(WorkerState.HEALTHY)
        result = super()._monitor_workers(worker_group)  # kills the others
        if _is_stopped() or Agent.left or not {REFUSED, USAGE}.isdisjoint(Agent.ended.values()):
            self._remaining_restarts = 0
        if result.is_failed() and self._remaining_restarts:
            print(f"{_reason(result.failures)}; all start again from the last checkpoint, {self._remaining_restarts} "
                  f"of {worker_group.spec.max_restarts} times left", file=sys.stderr, flush=True)
        return result

    def _end_where_others_have(self, worker_group: WorkerGroup) -> None:
        """Our processes wait for those of a machine that has gone, half an hour where they are about to meet them."""
        if not Agent.left and worker_group.spec.rdzv_handler.is_closed():
            Agent.left = time.monotonic()
        if Agent.left and time.monotonic() > Agent.left + LEFT_SECONDS:
            for process in self._pcontext.subprocess_handlers.values():
                process.proc.kill()

    def _statuses(self) -> dict[int, int | None]:
        """Local rank -> exit status, None while it runs."""
        processes = self._pcontext.subprocess_handlers
        return {local_rank: process.proc.poll() for local_rank, process in processes.items()}


def launch(words: list[str]) -> int:
    """Run torchrun with these words; returns the exit status: 0, 75 where a signal has stopped the run, or 1."""
    # by default the processes use the agent's own store, which does not work again for those that are started anew
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")  # torch issues 135712 and 167288
    api.LocalElasticAgent = Agent  # launch_agent lets nobody choose
    with TemporaryDirectory(prefix="blspkd-") as folder:  # for what the processes fail with
        try:
            run(parse_args(["--log-dir", folder, "--signals-to-handle", "SIGINT,SIGHUP,SIGQUIT", *words]))
        except SignalException as stopped:
            return 128 + stopped.sigval
        except ChildFailedError as error:
            if _is_stopped():
                return STOPPED
            print(f"error: {OTHER if Agent.left else _reason(error.failures)}", file=sys.stderr)
            return 1
        except RendezvousClosedError:  # our processes were to be started again
            print(f"error: {OTHER}", file=sys.stderr)
            return 1
    return 0


def _is_stopped() -> bool:
    return bool(Agent.told) or not WANTED.isdisjoint(Agent.ended.values())


def _reason(failures: dict[int, ProcessFailure]) -> str:
    """Which process was the first to fail, and with what: one that was killed comes before those that missed it."""
    first = min((failure for failure in failures.values() if failure.local_rank in Agent.ended), key=_when)
    rank = next(rank for rank, failure in failures.items() if failure is first)
    message = first.message if isinstance(first.message, str) else first.message["message"]
    if first.exitcode > 0 and not os.path.isfile(first.error_file):  # nothing of ours: torch's advice is not for users
        message = f"exit status {first.exitcode}"
    return f"rank {rank} ended: {message}"


def _when(failure: ProcessFailure) -> float:
    path = Path(failure.error_file)
    return path.stat().st_mtime if path.is_file() else 0.0 if failure.exitcode < 0 else math.inf

"""The end of a training that hangs: `training.hang_minutes` after a rank last did something, all tell where they stand.

Where one rank hangs, the others wait for it in a collective operation, and all of them fall silent at about the same
time. Each prints the stacks of its threads, leaves the others the time to do so, and exits; blspkd.bin.launch starts
the processes again, and they go on from the last checkpoint.
"""

import faulthandler
import os
import signal
import sys
import threading
import time

from transformers import TrainerCallback

from blspkd.errors import STOPPED

LOOKS = 20  # in `hang_minutes`
SECONDS = 5  # at most, between two looks
GRACE_SECONDS = 60  # for a checkpoint, when there is nobody left who would stop us


class Watch(TrainerCallback):
    """A thread that looks whether the main one goes on: `with watch:`, and `watch.beat()` after every piece of work.

    Where blspkd.bin.launch has been killed, it tells the training to stop as well.
    """

    def __init__(self, minutes: float):
        """minutes: 0 for any time."""
        self.seconds = 60 * minutes
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._ended = threading.Event()

    def __enter__(self) -> "Watch":
        self.beat()
        threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(self, *raised) -> None:
        self._ended.set()
        faulthandler.cancel_dump_traceback_later()

    def beat(self) -> None:
        self._last = time.monotonic()

    def on_step_begin(self, args, state, control, **kwargs):
        self.beat()

    on_substep_end = on_step_end = on_prediction_step = on_save = on_step_begin

    def _look(self) -> None:
        pause = min(self.seconds / LOOKS or SECONDS, SECONDS)
        while not self._ended.wait(pause):
            if self._launcher not in (None, os.getppid()):
                os.kill(os.getpid(), signal.SIGTERM)
                self._ended.wait(GRACE_SECONDS)
                os._exit(STOPPED)
            if self.seconds:
                self._look_for_hangs()

    def _look_for_hangs(self) -> None:
        # in case this thread does not come to run, since the main one hangs in code that lets nobody else
        faulthandler.dump_traceback_later(self.seconds, exit=True, file=sys.__stderr__)
        last = self._last
        if time.monotonic() - last > self.seconds:
            rank, of = (os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
            print(f"rank {rank} of {of} has done nothing for {self.seconds / 60:g} minutes (training.hang_minutes) and "
                  "ends, unless it goes on now; here it stands:", file=sys.__stderr__, flush=True)
            faulthandler.dump_traceback(sys.__stderr__)
            if not self._ended.wait(2 * self.seconds / LOOKS) and self._last == last:
                os._exit(1)

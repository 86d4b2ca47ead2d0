"""Stopping a training by a signal: SIGTERM or SIGUSR1, to any of its processes.

While steps run, a signal is only noted. The counts that all processes add up before every step carry the note along
(KdTrainer), so that all of them know, without a collective operation of its own; they finish that step, write a
checkpoint and exit with status 75 (errors.STOPPED). Before and after, when there is nothing to save, a signal ends the
process at once, with the same status. Further signals change nothing: a checkpoint counts when it is whole, and until
then the one before does.
"""

from contextlib import ExitStack

import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl

from blspkd.errors import Stopped
from blspkd.training.signals import handled


class Stopping(TrainerCallback):
    """Ends the training with a checkpoint, behind the step before which all processes have learnt of a signal."""

    def __init__(self):
        self.told = False  # by a signal to this process
        self.agreed = False  # all processes know of one
        self._handled = ExitStack()

    def on_train_begin(self, args, state, control, **kwargs):
        self._handled.enter_context(handled(self._note))

    def on_step_end(self, args, state, control, **kwargs):
        if self.agreed or (self.told and args.world_size == 1):
            self.stop(control)

    def stop(self, control: TrainerControl) -> None:
        self.agreed = control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        self._handled.close()
        if self.agreed and args.world_size > 1:
            dist.barrier()  # the first rank may still be finishing the checkpoint, and the end of one ends all
        if self.agreed:
            text = f"stopped at step {state.global_step} of {state.max_steps}, with a checkpoint"
            raise Stopped(text if state.is_world_process_zero else "")

    def _note(self, number: int, frame: object) -> None:
        self.told = True

"""The bar of a training."""

from transformers import TrainerCallback

from blspkd.progress import progress_bar


class Bar(TrainerCallback):
    """Progress in optimiser steps, with the time left."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = progress_bar("training", total=state.max_steps, unit="step") if state.is_world_process_zero else None
        if self.bar:
            self.bar.update(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar:
            self.bar.update(1)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.bar and logs and "loss" in logs:
            self.bar.set_postfix_str(f"loss {logs['loss']:.3f}", refresh=False)

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar:
            self.bar.close()

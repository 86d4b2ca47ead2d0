"""What a training writes while it runs: checkpoints, and models of `snapshot_steps`."""

from pathlib import Path

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainingArguments

from blspkd.config import TrainConfig
from blspkd.config_file import save_config
from blspkd.training.checkpoint import Split, begun_with, finish_checkpoint
from blspkd.training.objective import KdObjective
from blspkd.training.zero import whole


@torch.no_grad()
def load_average(model: KdObjective, checkpoints: list[Path]) -> None:
    """Put the mean of the checkpoints' weights into the model; all processes call this."""
    with whole(model, write=True):
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
        for checkpoint in checkpoints:
            model.load_trained(str(checkpoint))
            for name, total in sums.items():
                total += parameters[name].double()
        for name, total in sums.items():
            parameters[name].copy_(total / len(checkpoints))


class Snapshots(TrainerCallback):
    """Models of `snapshot_steps`, each in a folder that stage 4 can evaluate like that of a finished training."""

    def __init__(self, config: TrainConfig, arguments: TrainingArguments):
        self.config, self.folder = config, Path(arguments.output_dir) / "snapshots"

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step not in self.config.training.snapshot_steps:
            return
        with whole(model):
            if state.is_world_process_zero:
                folder = self.folder / str(state.global_step)
                save_config(self.config, folder / "config.yaml")
                model.save_pretrained(folder / "model")


class Checkpoints(TrainerCallback):
    """Checkpoints are finished when all ranks have written their part; before that the older ones stay."""

    def __init__(self, config: TrainConfig):
        training = config.training
        self.keep = max(training.keep_checkpoints, training.average_checkpoints)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        with whole(model):
            model.check_whole()  # not after the first thousand steps

    def on_save(self, args, state, control, **kwargs):
        if args.world_size > 1:
            dist.barrier()
        if state.is_world_process_zero:
            split = begun_with(args.output_dir) or Split(args.world_size, args.gradient_accumulation_steps)
            finish_checkpoint(Path(args.output_dir) / f"checkpoint-{state.global_step}", split, self.keep)

"""The Hugging Face Trainer, set up for BLSP-KD: batches by plan, exact loss means, checkpoints of what is trained."""

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from blspkd.config import TrainConfig, TrainingConfig
from blspkd.data.batching import Batch, BatchPlan
from blspkd.data.examples import Cached, Example, ExampleDataset
from blspkd.data.features import FeatureExtractor
from blspkd.errors import AudioError, ModelError
from blspkd.free_memory import Tidy, give_back
from blspkd.models.pieces import is_large
from blspkd.training.bar import Bar
from blspkd.training.checkpoint import Split
from blspkd.training.clock import Clock, readable
from blspkd.training.loader import batch_loader
from blspkd.training.objective import Denominators, KdObjective
from blspkd.training.optimiser import make_optimiser
from blspkd.training.parallel import runs_in_step
from blspkd.training.saving import Checkpoints, Snapshots, load_average
from blspkd.training.sharding import data_parallel, has_shards, to_device
from blspkd.training.shared_weights import SharedWeights
from blspkd.training.stopping import Stopping
from blspkd.training.zero import leave_frozen_out, whole

logger = logging.getLogger(__name__)


class _Arguments(TrainingArguments):
    """The Trainer's options; the CPU of several processes is "cpu", too: a move to accelerate's "cpu:0" copies all."""

    @property
    def device(self) -> torch.device:
        device = super().device
        if device.type == "cpu" and device.index is not None:
            device = self.distributed_state.device = torch.device("cpu")
        return device


def training_arguments(config: TrainConfig, output_dir: str | Path) -> TrainingArguments:
    """Our configuration in the Trainer's terms; max_steps is set when the number of batches is known."""
    training = config.training
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(Path(output_dir) / "tensorboard")
    use_cpu = not torch.cuda.is_available()
    several_cpu = use_cpu and int(os.environ.get("WORLD_SIZE", 1)) > 1
    return _Arguments(
        output_dir=str(output_dir), max_steps=max(1, training.max_steps), learning_rate=training.learning_rate,
        warmup_steps=training.warmup_steps, lr_scheduler_type=training.schedule, weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm, gradient_accumulation_steps=training.gradient_accumulation,
        bf16=training.bf16, use_cpu=use_cpu, ddp_backend="gloo" if several_cpu else None, seed=training.seed,
        ddp_timeout=_collective_seconds(training.hang_minutes),
        logging_steps=training.log_steps, logging_first_step=True, logging_nan_inf_filter=False,
        save_strategy="steps", save_steps=training.save_steps,
        eval_strategy="steps" if training.eval_steps else "no", eval_steps=training.eval_steps or None,
        ddp_find_unused_parameters=training.find_unused_parameters, deepspeed=training.deepspeed or None,
        report_to=["tensorboard"], disable_tqdm=True, remove_unused_columns=False, dataloader_pin_memory=not use_cpu,
        average_tokens_across_devices=False)


def _collective_seconds(hang_minutes: float) -> int:
    """Time-out of a collective operation: the Watch comes first, which says where every rank stands."""
    return round(90 * hang_minutes) + 60 if hang_minutes else 24 * 3600


def optimiser_steps(training: TrainingConfig, batches: int, split: Split) -> int:
    """Steps of the whole run: max_steps, or num_epochs in steps.

    batches: of one rank in an epoch; split: with which the run began.
    """
    if training.max_steps > 0:
        return training.max_steps
    return max(1, math.ceil(training.num_epochs * batches / split.accumulation))


class KdTrainer(Trainer):
    """Trains a KdObjective."""

    def __init__(self, objective: KdObjective, config: TrainConfig, arguments: TrainingArguments,
                 train: Sequence[Example], valid: Sequence[Example], extractor: FeatureExtractor):
        self.stopping = Stopping()
        super().__init__(model=objective, args=arguments, eval_dataset=valid,
                         callbacks=[Bar(), Snapshots(config, arguments), Checkpoints(config), SharedWeights(),
                                    self.stopping])
        self.remove_callback(PrinterCallback)  # our log lines say the same
        self.config = config
        self.train_examples, self.valid_examples, self.extractor = train, valid, extractor
        self.cached: dict[str, Cached] = {}  # by set: train, valid
        self.loss_is_scaled_for_ga = True  # every micro-batch is divided by the counts of the whole step
        self.can_return_loss = True
        self.objective = objective
        self.clock = Clock(arguments.device)
        # on the device, so that no micro-batch waits for it: sums since the last log line, and whether a loss of this
        # step was not finite
        self._sums = torch.zeros(len(objective.units), device=arguments.device)
        self._lost = torch.zeros((), dtype=torch.bool, device=arguments.device)
        self._counts = Denominators(0.0, 0.0, 0.0)
        self._of_aligned = Denominators(0.0, 0.0, 0.0)  # the same without steps of `own_length`
        self._bad, self._seen = 0, 0
        self._watched: list[nn.Module] = []
        self._tidy = Tidy()

    def get_train_dataloader(self) -> DataLoader:
        """The whole run is one pass through a BatchPlan, so that resuming skips exactly the batches that were seen."""
        data = self.config.data
        plan = BatchPlan(self.train_examples, data, self.args.seed,
                         self.args.max_steps * self.args.gradient_accumulation_steps,
                         self.args.process_index, self.args.world_size, self.args.gradient_accumulation_steps)
        dataset = ExampleDataset(self.train_examples, self.extractor, data, self.args.seed, augment=True,
                                 cached=self.cached.get("train"), negatives=self.objective.negatives)
        return batch_loader(dataset, plan, data.num_workers)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with a learning rate per part."""
        if self.optimizer is None:
            self.optimizer = make_optimiser(self.model, self.config.training)
        return self.optimizer

    def get_batch_samples(self, *args, **kwargs) -> tuple[list[Batch], Denominators | None]:
        """The micro-batches of a step, and what they count."""
        self.clock.enter("data")
        samples = super().get_batch_samples(*args, **kwargs)
        self.clock.enter("other")
        return samples

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> Denominators:
        counts = Denominators.of(batch_samples)
        self.clock.enter("other")
        if self.args.world_size > 1:
            values = torch.tensor([counts.input, counts.response, counts.utterances, self.stopping.told], device=device)
            dist.all_reduce(values)
            *values, told = values.tolist()
            counts, self.stopping.agreed = Denominators(*values), told > 0
        self._counts += counts
        if not self.objective.own_length.drawn(self.state.global_step):
            self._of_aligned += counts
        return counts

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        self._check_errors(inputs)
        return inputs.to(self.args.device)

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        to_device(model, device)

    def _wrap_model(self, model: nn.Module, training: bool = True, **kwargs) -> nn.Module:
        """accelerate's DistributedDataParallel, or ours where layers are in parts, of which its own knows nothing."""
        if not (training and model is self.model and has_shards(model)):
            return super()._wrap_model(model, training, **kwargs)
        model = self.accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)  # autocast only
        return data_parallel(model, self.args.device, **self.accelerator.ddp_handler.to_kwargs())

    @property
    def deepspeed(self) -> nn.Module | None:
        """DeepSpeed's engine, which the Trainer puts here."""
        return self._engine

    @deepspeed.setter
    def deepspeed(self, engine: nn.Module | None) -> None:
        self._engine = engine and leave_frozen_out(engine)

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not counted: the Trainer's estimate knows no speech encoder."""
        return 0

    def training_step(self, model: nn.Module, inputs: Batch, *args, **kwargs) -> torch.Tensor:
        """One micro-batch, forward and backward."""
        if is_large(inputs.sequences.ids.numel(), self.config.training.most_positions):
            give_back()  # what usual batches leave is in smaller pieces
        if isinstance(model, DistributedDataParallel) and model not in self._watched:
            self._watched.append(model)
            self.clock.watch(model)
        self.clock.count(inputs)
        self.clock.enter("forward")
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.clock.enter("other")
        if self.accelerator.sync_gradients:  # the last micro-batch; before the weights, or a checkpoint, can change
            self.clock.steps += 1
            if self._lost:
                raise ModelError(f"the loss is not finite at step {self.state.global_step}; lower learning_rate, or "
                                 f"look for broken audio in this step's batches, with {', '.join(inputs.utt_ids[:5])}")
        self._tidy.after_step()
        return loss

    def compute_loss(self, model: nn.Module, inputs: Batch, return_outputs: bool = False,
                     num_items_in_batch: Denominators | None = None):
        """Loss of one micro-batch, a share of the step's global mean."""
        result = model(inputs, num_items_in_batch, self.state.global_step)
        self._sums += result.sums
        self._lost |= ~torch.isfinite(result.loss.detach())
        self.clock.enter("backward")
        # DistributedDataParallel averages gradients over ranks; ours are shares of a sum
        return result.loss * self.args.world_size

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the loss terms since the last line, and where the time went."""
        times: dict[str, float] = {}
        if "loss" in logs and self._counts.utterances:
            if self.args.world_size > 1:
                dist.all_reduce(self._sums)
            logs |= self.objective.means(self._sums.cpu(), self._counts, training=True, of_aligned=self._of_aligned)
            times = self.clock.report()
            self._sums.zero_()
            self._counts, self._of_aligned = Denominators(0.0, 0.0, 0.0), Denominators(0.0, 0.0, 0.0)
        super().log(logs | times, start_time)
        if self.is_world_process_zero() and "train_runtime" not in logs:
            values = "  ".join(f"{name} {value:.4g}" for name, value in logs.items()
                               if isinstance(value, float) and name != "epoch")
            logger.info("step %d/%d  %s", self.state.global_step, self.state.max_steps, values)
            if times:
                logger.info("%s", readable(times))

    @torch.no_grad()
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Loss terms on the validation set, every rank its share of the batches."""
        self.clock.enter("validation")
        data = self.config.data
        dataset = ExampleDataset(self.valid_examples, self.extractor, data, 0, augment=False,
                                 cached=self.cached.get("valid"), negatives=self.objective.negatives)
        every = BatchPlan(self.valid_examples, data, 0, 1).epoch(0)
        batches = every[self.args.process_index::self.args.world_size]
        number = len(batches)
        in_step = runs_in_step(self.config.training)
        if in_step:  # the others wait for a process that has run out of batches
            batches += every[:math.ceil(len(every) / self.args.world_size) - number]
        loader = batch_loader(dataset, [[(0, int(index)) for index in batch] for batch in batches], data.num_workers)
        was_training = self.model.training
        self.model.eval()
        totals = torch.zeros(len(self.objective.units) + 4, dtype=torch.float64)
        give_back()  # training kept it for its next step
        for i, batch in enumerate(loader):
            if self.stopping.told and not in_step:  # there may be no time for more than a checkpoint
                totals[-1] = 1
                break
            counts = Denominators.of([batch])
            sums = self.model(self._prepare_inputs(batch), counts).sums
            if i < number:
                totals[:-1] += torch.cat([sums.double().cpu(),
                                          torch.tensor([*vars(counts).values()], dtype=torch.float64)])
            self._tidy.after_step()
            self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        self.model.train(was_training)
        give_back()
        if self.args.world_size > 1:
            totals = totals.to(self.args.device)
            dist.all_reduce(totals)
        *counts, told = totals[-4:].tolist()
        self.clock.enter("other")
        if told:
            self.stopping.stop(self.control)
            return {}
        means = self.objective.means(totals[:-4].cpu(), Denominators(*counts), training=False)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in means.items()}
        self.log(metrics)
        return metrics

    def load_average(self, checkpoints: list[Path]) -> None:
        """Put the mean of the checkpoints' weights into the model."""
        load_average(self.model, checkpoints)

    def _save_checkpoint(self, *arguments) -> None:
        self.clock.enter("checkpoint")
        super()._save_checkpoint(*arguments)
        self.clock.enter("other")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what is trained; all processes call this."""
        self._save(output_dir)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        with whole(self.model):
            if self.args.should_save:
                self.model.save_pretrained(output_dir or self.args.output_dir)
        if self.args.world_size > 1:  # the folder is put in place by renaming: nobody may write into it before
            dist.barrier()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.model.load_trained(resume_from_checkpoint)

    def _check_errors(self, batch: Batch) -> None:
        """Stop when more utterances failed to load than `data.max_bad_ratio` allows."""
        self._bad += len(batch.errors)
        self._seen += len(batch.errors) + len(batch.utt_ids)
        for error in batch.errors:
            logger.warning("%s", error)
        # a small run must not stop at its first utterance, nor a large one wait long
        if batch.errors and (not batch.utt_ids or self._bad > self.config.data.max_bad_ratio * max(self._seen, 100)):
            raise AudioError(f"{self._bad} of {self._seen} utterances could not be loaded, and data.max_bad_ratio is "
                             f"{self.config.data.max_bad_ratio}; the last: {batch.errors[-1]}")

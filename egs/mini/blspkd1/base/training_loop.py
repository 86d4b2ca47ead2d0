"""A training loop that can be killed at any moment and gives the same weights as one that was not.

Nothing random has a state that would have to be saved: the order of the batches follows from (seed, epoch), everything
else in a step from (seed, step). A checkpoint is then weights, the optimisers' moments and the number of steps done, in
one safetensors file that appears whole or not at all.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from optimizers import make_optimizers
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from blspkd.files import atomic_path
from blspkd.progress import progress_bar


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up and linear decay to zero."""

    steps: int
    learning_rate: float
    warmup_steps: int
    batch_size: int
    seed: int
    save_steps: int  # steps between checkpoints: what a kill can cost
    optimizer: str  # one of optimizers.KINDS
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    def rate(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        return self.learning_rate * (self.steps - step) / max(1, self.steps - self.warmup_steps)


StepLoss = Callable[[int, np.ndarray, torch.Generator], Tensor]


def train(module: nn.Module, step_loss: StepLoss, lengths: np.ndarray, schedule: Schedule, checkpoint: Path,
          fingerprint: str, what: str, after: Mapping[int, Callable[[], object]] | None = None) -> None:
    """Train `module` in place; go on from `checkpoint` if that is of the same `fingerprint`.

    step_loss(step, rows, generator) gives the loss of step `step` on the examples `rows` [B]; `generator` is the only
    source of randomness it may use. `lengths` [examples]: examples of like length are batched together. `after`: what
    to do once so many steps are done; it is done before that step's checkpoint, so that no kill can leave it out.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizers = make_optimizers(module, schedule.optimizer, schedule.learning_rate, schedule.weight_decay)
    done = _load(checkpoint, fingerprint, module, optimizers)
    if done:
        print(f"{what}: going on after step {done}", flush=True)
    bar = progress_bar(what, total=schedule.steps, unit="step")
    bar.initial = bar.n = done
    module.train()
    running = None
    batches = islice(_batches(lengths, schedule.batch_size, schedule.seed), done, schedule.steps)
    for step, rows in enumerate(batches, start=done):
        generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + step)
        for group in [group for optimizer in optimizers for group in optimizer.param_groups]:
            group["lr"] = schedule.rate(step)
        loss = step_loss(step, rows, generator)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, schedule.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        bar.set_postfix_str(f"loss={running:.3f}", refresh=False)
        bar.update()
        if after and step + 1 in after:
            after[step + 1]()
            module.train()
        if (step + 1) % schedule.save_steps == 0 and step + 1 < schedule.steps:
            _save(checkpoint, fingerprint, step + 1, module, optimizers)
    bar.close()
    module.eval()


def prepare_cpu(threads: int = 1) -> None:
    """One thread per job where two jobs run side by side, and no time lost on denormal numbers."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)


def _batches(lengths: np.ndarray, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Endless batches of row numbers [B]; every epoch sees every row once, rows of like length together."""
    epoch = 0
    while True:
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(len(lengths))
        batches = []
        pool_size = batch_size * 40
        for start in range(0, len(order), pool_size):
            pool = order[start:start + pool_size]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            batches += [pool[first:first + batch_size] for first in range(0, len(pool), batch_size)]
        for number in random.permutation(len(batches)):
            yield batches[number]
        epoch += 1


def _save(path: Path, fingerprint: str, step: int, module: nn.Module, optimizers: list[Optimizer]) -> None:
    tensors = {f"weights.{name}": parameter.detach() for name, parameter in module.named_parameters()}
    for which, optimizer in enumerate(optimizers):
        for number, state in optimizer.state_dict()["state"].items():
            tensors.update({f"optimizer.{which}.{number}.{name}": value for name, value in state.items()})
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"step": json.dumps(step), "fingerprint": fingerprint})


def _load(path: Path, fingerprint: str, module: nn.Module, optimizers: list[Optimizer]) -> int:
    """Restore a checkpoint; return the number of steps done, 0 where there is none that fits."""
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        if metadata["fingerprint"] != fingerprint:
            return 0
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            which, number, entry = rest.split(".", 2)
            states[int(which)].setdefault(int(number), {})[entry] = tensor
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(tensors[f"weights.{name}"])
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return json.loads(metadata["step"])

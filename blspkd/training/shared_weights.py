"""One copy of the frozen weights for all processes that train on the CPUs of one machine.

Every process has loaded the LLM for itself. Here the first one writes the frozen weights into a file, all map it, and
its name is removed: the pages that they read are the same memory, and it is the system's page cache, which it may take
back. Nothing that is computed changes.
"""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from transformers import TrainerCallback

from blspkd.free_memory import give_back
from blspkd.training.sharding import is_sharded

ALIGNMENT = 64  # bytes, as torch's own memory


class SharedWeights(TrainerCallback):
    """When the model is in place: DistributedDataParallel writes into all weights when it begins."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if dist.is_initialized() and 1 < dist.get_world_size() == int(os.environ.get("LOCAL_WORLD_SIZE", 0)):
            share_frozen(model, Path(args.output_dir) / "frozen-weights.tmp")
        give_back()


def share_frozen(model: nn.Module, path: Path) -> None:
    """Put the frozen weights of `model` that are on a CPU into memory that all processes share; parts of some stay.

    path: of a file that is there for a moment; all processes call this with the same weights.
    """
    frozen = [p for p in model.parameters() if not p.requires_grad and p.device.type == "cpu" and p.numel()
              and not is_sharded(p)]
    sizes = [-(-p.numel() * p.itemsize // ALIGNMENT) * ALIGNMENT for p in frozen]
    if not frozen:
        return
    if dist.get_rank() == 0:
        try:
            with open(path, "wb") as file:
                for p, size in zip(frozen, sizes, strict=True):
                    raw = p.detach().contiguous().view(-1).view(torch.uint8)
                    file.write(raw.numpy().data)
                    file.write(bytes(size - len(raw)))
        except BaseException:  # a full disk: not for its remains
            path.unlink(missing_ok=True)
            raise
    dist.barrier()
    storage = torch.UntypedStorage.from_file(str(path), False, sum(sizes))
    start = 0
    for p, size in zip(frozen, sizes, strict=True):
        p.data = torch.empty(0, dtype=p.dtype).set_(storage, start // p.itemsize, p.shape)
        start += size
    dist.barrier()
    if dist.get_rank() == 0:
        path.unlink()

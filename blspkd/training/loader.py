"""The processes that read audio and make batches while the model computes."""

from collections.abc import Iterable

import torch
from torch.utils.data import DataLoader

from blspkd.data.batching import collate
from blspkd.data.examples import ExampleDataset
from blspkd.training.signals import outlive


def batch_loader(dataset: ExampleDataset, batches: Iterable[list[tuple[int, int]]], num_workers: int) -> DataLoader:
    """Batches of (epoch, index) -> Batch, by `num_workers` processes of one thread; pinned where there is a GPU."""
    return DataLoader(dataset, batch_sampler=batches, num_workers=num_workers, collate_fn=collate,
                      pin_memory=torch.cuda.is_available(), worker_init_fn=_one_thread)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
    outlive()

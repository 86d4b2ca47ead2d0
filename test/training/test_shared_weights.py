"""Processes that train on one machine have one copy of what is frozen, and compute with it what they did before."""

import resource

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from blspkd.free_memory import give_back
from blspkd.training.shared_weights import share_frozen

SIDE = 2048  # of a matrix of 16 MiB


def build() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(SIDE, SIDE), nn.Linear(SIDE, 3).bfloat16(), nn.Linear(3, 3), nn.Linear(3, 2))
    model[3].weight.requires_grad_(True)
    model[:3].requires_grad_(False)
    model[2].weight = nn.Parameter(model[2].weight.t(), requires_grad=False)  # not contiguous
    model.tied = model[0].weight
    return model


def anonymous() -> int:
    """MiB of this process that belong to no file."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Anonymous:")) // 1024


def train(rank: int, folder) -> None:
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model, expected = build(), build()
    give_back()
    before = anonymous()
    share_frozen(model, folder / "weights")
    give_back()  # where the C library keeps what was freed, as it does when more was freed before
    assert anonymous() < before - 12
    assert not (folder / "weights").exists()
    for (name, found), wanted in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(found, wanted) and found.dtype == wanted.dtype, name
        assert found.requires_grad == wanted.requires_grad and found.data_ptr() % 4 == 0, name
    assert model.tied is model[0].weight
    x = torch.randn(4, SIDE)
    assert torch.equal(model[0](x), expected[0](x))
    with torch.no_grad():
        model[0].weight += rank  # nobody else sees that
    dist.barrier()
    assert torch.equal(model[0].weight, expected[0].weight + rank)
    dist.destroy_process_group()


def test_two_processes_share_what_is_frozen(tmp_path):
    mp.start_processes(train, (tmp_path,), nprocs=2, start_method="fork")


def test_a_model_that_trains_all_has_nothing_to_share(tmp_path):
    share_frozen(nn.Linear(2, 2), tmp_path / "weights")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            share_frozen(build(), tmp_path / "weights")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())

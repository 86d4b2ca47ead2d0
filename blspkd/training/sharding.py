"""`training.shard_llm`: an LLM that is larger than a GPU. Each of its decoder layers is split over the processes.

A layer is put together when it is needed, in the forward and in the backward pass, and taken apart behind it
(`fully_shard`, PyTorch FSDP, arXiv 2304.11277). Only what is frozen is split: adapter, PLoRA, embeddings and output
head are whole in every process, so that DistributedDataParallel, the optimiser and checkpoints are what they are
without.

    node   every machine has a copy of its own, split over its processes
    all    one copy, split over all processes

The processes read layers together: all of them have to run the LLM equally often, in the same order.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from blspkd.errors import ModelError


@dataclass
class Sharding:
    """Over which processes layers are split, and the device of this one."""

    mesh: DeviceMesh
    device: torch.device

    @classmethod
    def over(cls, which: str, device: torch.device) -> "Sharding":
        """which: node or all; all processes call this, with a process group."""
        world = dist.get_world_size()
        if which == "all":
            return cls(init_device_mesh(device.type, (world,)), device)
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        names = ("copies", "node")
        return cls(init_device_mesh(device.type, (world // local, local), mesh_dim_names=names), device)

    def load(self, build: Callable[[], nn.Module]) -> nn.Module:
        """The LLM that `build` makes on the CPU, its layers split, the rest on the device.

        One process of a machine after the other: whatever a loader needs beside mapped files, it is there once.
        """
        turns, turn = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
        llm = None
        for now in range(turns):
            if now == turn:
                llm = build()
                self.shard(llm)
            dist.barrier()
        return llm

    def shard(self, llm: nn.Module) -> None:
        """Split the decoder layers of a causal LM, one after the other; what trains stays whole. Talks to nobody.

        Raises ModelError for quantised layers.
        """
        layers = decoder_layers(llm)
        for layer in layers:
            for name, parameter in layer.named_parameters():
                if not parameter.is_floating_point():
                    raise ModelError(f"training.shard_llm: {name} is {parameter.dtype}: quantised layers cannot be "
                                     "split; load the LLM without quantisation, or set shard_llm to none")
            trained = {parameter for parameter in layer.parameters() if parameter.requires_grad}
            fully_shard(layer, mesh=self.mesh, reshard_after_forward=True, ignored_params=trained)
        # Nothing of its own, but the layers know of each other through it: the next one comes while one computes.
        backbone = _backbone(llm)
        fully_shard(backbone, mesh=self.mesh, ignored_params={p for p in backbone.parameters() if not is_sharded(p)})
        to_device(llm, self.device)


def decoder_layers(llm: nn.Module) -> nn.ModuleList:
    """The largest list of layers in the LLM."""
    lists = [module for module in _backbone(llm).modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda layers: sum(p.numel() for p in layers.parameters()))


def _backbone(llm: nn.Module) -> nn.Module:
    causal_lm = llm.get_base_model() if hasattr(llm, "get_base_model") else llm  # a PeftModel
    return causal_lm.base_model


def is_sharded(parameter: torch.Tensor) -> bool:
    return isinstance(parameter, DTensor)


def has_shards(model: nn.Module) -> bool:
    return any(map(is_sharded, model.parameters()))


@torch.no_grad()
def to_device(model: nn.Module, device: torch.device) -> None:
    """`model.to(device)`; parts of layers are on theirs, and stay there."""
    if not has_shards(model):
        model.to(device)
        return
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if not is_sharded(parameter):
                parameter.data = parameter.data.to(device)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


def data_parallel(model: nn.Module, device: torch.device, **options) -> DistributedDataParallel:
    """DistributedDataParallel over all that is whole; of layers in parts it knows nothing."""
    sharded = [name for name, parameter in model.named_parameters(remove_duplicate=False) if is_sharded(parameter)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, sharded)
    index = None if device.type == "cpu" else [device]
    return DistributedDataParallel(model, device_ids=index, **options)

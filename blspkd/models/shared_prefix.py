"""The prompt's prefix, read by the LLM once and not in every row of every batch.

All rows of a training batch begin with the same instruction, and so do most that a listener replies to together. No
speech stands before its end and no gradient reaches it, so its keys and values are constants of the frozen LLM: they
are computed once and stand at the front of every row's KV cache.
"""

import functools
import inspect

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from blspkd.models.kv_cache import find_cache


class SharedPrefix:
    """Keys and values of the last prefix that was asked for."""

    def __init__(self):
        # what it was made for, and keys and values [1, heads, P, width] by layer; one value, so that threads that ask
        # for different ones never mix them
        self._read: tuple[tuple, list[tuple] | None] = ((), None)

    def expand(self, llm: nn.Module, prefix: np.ndarray | None, rows: int, padded_behind: bool = False
               ) -> DynamicCache | None:
        """A new KV cache in which `rows` rows have read `prefix` [P]; to be called outside `speech_positions`.

        padded_behind: padding follows the prefix, so that the LLM has to take positions that are told, and no window
        may count places.
        None where rows do not share a prefix, under gradient checkpointing (which drops KV caches), and for LLMs whose
        state is not keys and values of every position: then all positions have to be computed.
        """
        # only layers that train are recomputed; a reply need not look through all modules
        checkpointing = llm.training and any(getattr(module, "gradient_checkpointing", False)
                                             for module in llm.modules())
        if prefix is None or not len(prefix) or checkpointing:
            return None
        if padded_behind and not _takes_positions(llm):
            return None
        weight = llm.get_input_embeddings().weight
        device = weight.device
        autocast = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
        made_for = (prefix.tobytes(), device, weight.dtype, autocast)
        read = self._read
        if read[0] != made_for:
            read = self._read = (made_for, _read(llm, prefix, device))
        if read[1] is None:
            return None
        cache = DynamicCache(config=llm.config)
        for index, (keys, values) in enumerate(read[1]):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), index)
        return cache


def _takes_positions(llm: nn.Module) -> bool:
    """Whether padding between what it reads changes nothing."""
    layers = DynamicCache(config=llm.config).layers
    return (_has_positions(type(llm))
            and all(type(layer) is DynamicLayer for layer in layers)
            and not hasattr(llm.config, "window_size"))  # GPT-Neo's local attention


@functools.cache  # asked before every reply
def _has_positions(kind: type[nn.Module]) -> bool:
    return "position_ids" in inspect.signature(kind.forward).parameters


@torch.no_grad()
def _read(llm: nn.Module, prefix: np.ndarray, device: torch.device) -> list[tuple] | None:
    ids = torch.from_numpy(prefix).to(device, torch.int64)[None]
    cache = find_cache(llm.base_model(input_ids=ids, use_cache=True).values())
    if not isinstance(cache, DynamicCache):
        return None
    # a sliding window may have lost some positions
    whole = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) and layer.keys is not None
                and layer.keys.shape[-2] == len(prefix) for layer in cache.layers)
    return [(layer.keys, layer.values) for layer in cache.layers] if whole else None

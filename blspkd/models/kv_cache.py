"""The KV cache in the calls of a Hugging Face LLM, by whatever name this release of transformers has for it.

It was `past_key_values` until transformers 5.23 and is `cache` from 5.24 on, in arguments and in outputs; some models
keep the old name. So a cache is recognised by what it is, and only a call of ours has to ask for the name.
"""

import functools
import inspect
from collections.abc import Iterable

from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


def find_cache(values: Iterable[object]) -> Cache | None:
    """The KV cache among the arguments or the outputs of a call; None where there is none."""
    return next((value for value in values if isinstance(value, Cache)), None)


def cache_argument(llm: nn.Module, cache: Cache | None) -> dict[str, Cache | None]:
    """`cache` as the keyword argument that the forward call of `llm` takes."""
    return {_argument_name(type(llm)): cache}


class NoCache(DynamicCache):
    """A cache that keeps nothing.

    Without one transformers looks through the positions for several sequences in a row, and waits for the device's
    answer, in every call. Ours have one sequence in a row.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        return key_states, value_states


def no_cache(llm: nn.Module) -> NoCache | None:
    """`NoCache`; None for LLMs whose state is something else than keys and values."""
    layers = DynamicCache(config=llm.config).layers
    return NoCache() if all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers) else None


@functools.cache  # asked in every step of a training
def _argument_name(kind: type[nn.Module]) -> str:
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"

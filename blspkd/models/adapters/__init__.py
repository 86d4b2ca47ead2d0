"""Adapters by the name that `model.adapter` gives.

A new one is a file here with a class (see `Adapter`) and a line in `ADAPTERS`; the shortest example is conv.py.
"""

from blspkd.config import ModelConfig
from blspkd.config_file import from_dict, nearest
from blspkd.errors import ConfigError
from blspkd.models.adapters.adapter import Adapter, Sides
from blspkd.models.adapters.cformer import CFormer
from blspkd.models.adapters.conv import ConvSubsampler
from blspkd.models.adapters.grouping import Grouping

ADAPTERS: dict[str, type[Adapter]] = {"cformer": CFormer, "conv": ConvSubsampler, "group": Grouping}


def adapter_options(config: ModelConfig):
    """The options of `config.adapter`, defaults filled in. Raises ConfigError; loads no model."""
    if config.adapter not in ADAPTERS:
        raise ConfigError(f"model: adapter: there is no '{config.adapter}'; {nearest(config.adapter, ADAPTERS)}")
    return from_dict(ADAPTERS[config.adapter].Options, config.adapter_options, "model: adapter_options")


def adapter_gives(config: ModelConfig) -> frozenset[str]:
    """What the adapter of this configuration gives (`adapter.py` lists the names). Raises ConfigError."""
    options = adapter_options(config)
    return ADAPTERS[config.adapter].gives(options)


def make_adapter(config: ModelConfig, sides: Sides) -> Adapter:
    """A new adapter. Raises ConfigError."""
    return ADAPTERS[config.adapter](adapter_options(config), sides)

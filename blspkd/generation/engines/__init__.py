"""What runs the LLM of stage 2, by the name that `engine` gives.

A new one is a file here with a class (see `Engine`) and a line in `ENGINES`. Nothing heavy is imported: mistakes in
the options are said at once.
"""

from blspkd.config import ContinuationConfig
from blspkd.config_file import from_dict, nearest
from blspkd.errors import ConfigError
from blspkd.generation.engines.engine import Engine
from blspkd.generation.engines.huggingface import HuggingFaceEngine
from blspkd.generation.engines.openai import OpenAiEngine
from blspkd.generation.engines.vllm import VllmEngine

ENGINES: dict[str, type[Engine]] = {"huggingface": HuggingFaceEngine, "vllm": VllmEngine, "openai": OpenAiEngine}


def make_engine(config: ContinuationConfig) -> Engine:
    """The engine of this configuration; it has loaded nothing yet.

    Raises ConfigError for an unknown one, for options that it does not have, and for what it cannot do.
    """
    if config.engine not in ENGINES:
        raise ConfigError(f"engine: there is no '{config.engine}'; {nearest(config.engine, ENGINES)}")
    kind = ENGINES[config.engine]
    return kind(from_dict(kind.Options, config.engine_options, "engine_options"), config)

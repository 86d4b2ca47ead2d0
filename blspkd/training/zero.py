"""DeepSpeed's ZeRO (arXiv 1910.02054): which configurations it takes, and how what it trains is written.

In stage 3 weights are in parts between two steps: what is saved is put together first, by all processes. Frozen
weights are left out of its checkpoints: they are the base models'.
"""

import importlib.util
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from blspkd.config import TrainingConfig
from blspkd.errors import ConfigError

# The configuration of the training decides; a file that leaves one of them out would switch it off in silence.
AUTO = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
SECTIONS = ("zero_optimization", "bf16", "fp16", "amp")
OURS = {"optimizer": "parts have learning rates of their own", "scheduler": "training.schedule decides"}


def read_zero(path: str | Path) -> dict[str, Any]:
    """The configuration in a file. Raises ConfigError."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"training.deepspeed: {path}: cannot be read ({error}); conf/ds_zero2.json is one") from None
    if not (isinstance(values, dict) and all(isinstance(values.get(name, {}), dict) for name in SECTIONS)):
        raise ConfigError(f"training.deepspeed: {path}: is no configuration of DeepSpeed; conf/ds_zero2.json is one")
    stage = values.get("zero_optimization", {}).get("stage", 0)
    if type(stage) is not int or not 0 <= stage <= 3:
        raise ConfigError(f"training.deepspeed: {path}: zero_optimization: stage: {json.dumps(stage)} is no number "
                          "from 0 to 3")
    return values


def zero_stage(path: str | Path) -> int:
    """0 to 3; 0: nothing is in parts."""
    return read_zero(path).get("zero_optimization", {}).get("stage", 0)


def check_zero(training: TrainingConfig) -> None:
    """Raises ConfigError for a file whose settings are not in force, or would overrule the training's in silence."""
    path, values = training.deepspeed, read_zero(training.deepspeed)
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError("training.deepspeed: DeepSpeed is not installed; pip install deepspeed, or set "
                          "training.shard_llm in its place")
    for name in AUTO:
        if values.get(name) != "auto":
            raise ConfigError(f'training.deepspeed: {path}: {name}: {values.get(name, "not there")}: the section '
                              f'training decides that; set it to "auto"')
    for name, why in OURS.items():
        if name in values:
            raise ConfigError(f"training.deepspeed: {path}: {name}: {why}; remove it")
    for name, wanted in ("bf16", training.bf16), ("fp16", False), ("amp", False):
        enabled = values.get(name, {}).get("enabled", False)
        if enabled not in ("auto", wanted):
            raise ConfigError(f"training.deepspeed: {path}: {name}: enabled: {json.dumps(enabled)}: training.bf16 is "
                              f'{json.dumps(training.bf16)}; set it to "auto"')


@contextmanager
def whole(model: nn.Module, write: bool = False) -> Iterator[None]:
    """Within this block trained weights that ZeRO has in parts are whole; all processes enter and leave it together.

    write: changes that the first process makes are kept.
    """
    parts = [p for p in model.parameters() if p.requires_grad and hasattr(p, "ds_id")]
    if not parts:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parts, modifier_rank=0 if write else None):
        yield


def leave_frozen_out(engine: nn.Module) -> nn.Module:
    """The same engine, whose checkpoints hold what is trained only."""
    save, load = engine.save_checkpoint, engine.load_checkpoint

    def with_options(method: Callable, **options: bool) -> Callable:
        return lambda *args, **kwargs: method(*args, **{**kwargs, **options})

    engine.save_checkpoint = with_options(save, exclude_frozen_parameters=True)
    engine.load_checkpoint = with_options(load, load_module_strict=False)
    return engine

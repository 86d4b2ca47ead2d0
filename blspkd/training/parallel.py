"""Options of how processes share a training: what would have no effect, or does not go together, is refused.

All of it is found out before a model is loaded. What other launchers (accelerate) are told through the environment
would be ignored or change the training in silence, so that it is refused as well.
"""

import logging
import os
from collections.abc import Mapping

import torch

from blspkd.config import TrainConfig, TrainingConfig
from blspkd.errors import ConfigError
from blspkd.training.terms import TERMS, term_options
from blspkd.training.zero import check_zero, zero_stage

logger = logging.getLogger(__name__)
# accelerate's variables, and what to use in their place
_SWITCHES = {"ACCELERATE_USE_FSDP": "training.shard_llm", "ACCELERATE_USE_DEEPSPEED": "training.deepspeed",
             "ACCELERATE_USE_MEGATRON_LM": "training.shard_llm",
             "ACCELERATE_USE_PARALLELISM_CONFIG": "training.shard_llm"}
_VALUES = {"ACCELERATE_DYNAMO_BACKEND": "no", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"}


def check_parallel(config: TrainConfig, environment: Mapping[str, str] = os.environ) -> None:
    """Raises ConfigError for options that have no effect or do not go together; loads no model.

    environment: WORLD_SIZE and LOCAL_WORLD_SIZE are torchrun's.
    """
    training = config.training
    world = int(environment.get("WORLD_SIZE", 1))
    _check_environment(training, environment)
    if training.deepspeed:
        _check_deepspeed(config)
        if world == 1 and "RANK" not in environment:
            raise ConfigError("training.deepspeed: there is one process, which knows of no others as DeepSpeed wants "
                              "it; start several, or one with torchrun --standalone --nproc_per_node 1")
    if training.shard_llm != "none":
        _check_shards(config, world, int(environment.get("LOCAL_WORLD_SIZE", 0)))
    if training.find_unused_parameters and world == 1:
        logger.warning("training.find_unused_parameters: has no effect with one process")
    if runs_in_step(training):
        _check_in_step(config)


def runs_in_step(training: TrainingConfig) -> bool:
    """Whether all processes have to run the LLM equally often: each holds parts of its layers that the others need."""
    return training.shard_llm != "none" or (bool(training.deepspeed) and zero_stage(training.deepspeed) == 3)


def _check_environment(training: TrainingConfig, environment: Mapping[str, str]) -> None:
    for name, instead in _SWITCHES.items():
        if environment.get(name, "false").lower() in ("true", "1", "yes", "on"):
            raise ConfigError(f"{name}: what accelerate is told has no effect here; set {instead}, and start the "
                              "training with utils/launch.sh or torchrun")
    for name, usual in _VALUES.items():
        if environment.get(name, usual).lower() != usual:
            raise ConfigError(f"{name}={environment[name]}: has no effect here, or one that no configuration shows; "
                              "remove it from the environment")
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision != "no" and not (precision == "bf16" and training.bf16):
        raise ConfigError(f"ACCELERATE_MIXED_PRECISION={precision}: training.bf16 decides that, and it is "
                          f"{str(training.bf16).lower()}; remove it from the environment")


def _check_deepspeed(config: TrainConfig) -> None:
    training = config.training
    if training.shard_llm != "none":
        raise ConfigError(f"training.deepspeed: does not go with shard_llm '{training.shard_llm}': both decide where "
                          "weights are; set one of them")
    if training.find_unused_parameters:
        raise ConfigError("training.deepspeed: find_unused_parameters is DistributedDataParallel's, and has no effect "
                          "on DeepSpeed; set it to false")
    check_zero(training)
    if not config.loss.distils and zero_stage(training.deepspeed) == 3:
        raise ConfigError("training.deepspeed: w_input, w_response and w_response_ce are 0, so that the LLM, which "
                          "ZeRO stage 3 splits, never runs; set it to '', or use stage 2")


def _check_shards(config: TrainConfig, world: int, on_machine: int) -> None:
    which = config.training.shard_llm
    if not config.loss.distils:
        raise ConfigError(f"training.shard_llm: {which}: w_input, w_response and w_response_ce are 0, so that the LLM "
                          "never runs; set it to none")
    if world == 1:
        raise ConfigError(f"training.shard_llm: {which}: there is one process, so that nothing can be split; start "
                          "several (--ngpu), or set it to none")
    if config.training.cache_teacher is True:
        raise ConfigError("training.cache_teacher: does not go with shard_llm: the processes compute different numbers "
                          "of batches for it; set it to false")
    if which == "node" and on_machine < 2:
        raise ConfigError("training.shard_llm: node: there is one process on this machine (LOCAL_WORLD_SIZE), so that "
                          "nothing can be split; set it to all, or to none")
    if which == "node" and world % on_machine:
        raise ConfigError(f"training.shard_llm: node: {world} processes, {on_machine} of them on this machine: all "
                          "machines must have equally many; set it to all")
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7):
        raise ConfigError(f"training.shard_llm: needs torch 2.7 or newer, and this is {torch.__version__}")


def _check_in_step(config: TrainConfig) -> None:
    """What makes one process run the LLM more often than another, which would wait for it forever."""
    training = config.training
    what = f"shard_llm '{training.shard_llm}'" if training.shard_llm != "none" else "ZeRO stage 3"
    if training.most_positions:
        raise ConfigError(f"training.most_positions: does not go with {what}: the processes would run the LLM in "
                          "different numbers of pieces; set it to 0, and gradient_checkpointing to true")
    for name, options in term_options(config.loss, config.model).items():
        if TERMS[name].runs_llm(options):
            raise ConfigError(f"loss: terms: {name}: does not go with {what}: it runs the LLM in some batches only, "
                              "not in those of all processes alike; set its weight to 0")

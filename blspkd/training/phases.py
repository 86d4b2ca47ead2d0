"""The phases of stage 3: an alignment without the LLM, where `align:` asks for one, and then what the rest says.

An alignment trains with the terms of the loss alone (embedding, quantity, token counter): no pass through the LLM, of
which only the embedding table is loaded. It costs a fraction of a step of distillation and does most of the work
before it; the distillation goes on from it.
"""

from dataclasses import replace
from pathlib import Path

from blspkd.config import TrainConfig
from blspkd.config_file import from_dict, merge, to_dict
from blspkd.errors import ConfigError

ALIGN = "align"  # its folder in exp/<tag>
_WITHOUT_LLM = {"loss": {"w_input": 0.0, "w_response": 0.0, "w_response_ce": 0.0, "own_length": 0.0},
                "model": {"plora_rank": 0},
                "training": {"freeze_param": [], "cache_teacher": False, "snapshot_steps": [],
                             "average_checkpoints": 0, "shard_llm": "none", "deepspeed": ""}}


def alignment_of(config: TrainConfig) -> TrainConfig | None:
    """What the alignment before the distillation trains with: `config` and what `align` changes; None without one.

    Raises ConfigError.
    """
    if not config.align:
        return None
    changed = {key for key in config.align.get("model") or {} if key != "train_encoder"}
    if changed:
        raise ConfigError(f"align: model: {', '.join(sorted(changed))}: both phases train one model, so only "
                          "train_encoder may differ; change it in the section model")
    values = merge(merge(to_dict(config) | {"align": {}}, _WITHOUT_LLM), config.align)
    first = from_dict(TrainConfig, values, "align")
    if first.loss.distils:
        raise ConfigError("align: loss: an alignment runs without the LLM: w_input, w_response and w_response_ce are "
                          "the distillation's")
    if first.model.train_encoder and not config.model.train_encoder:
        raise ConfigError("align: model: train_encoder: the distillation goes on with the encoder that the alignment "
                          "trained; set model.train_encoder, too")
    return first


def phases(config: TrainConfig, output_dir: str | Path) -> list[tuple[TrainConfig, Path]]:
    """The trainings of a run, in their order, and the folder of each. Raises ConfigError."""
    first = alignment_of(config)
    if first is None:
        return [(config, Path(output_dir))]
    folder = Path(output_dir) / ALIGN
    then = replace(config, training=replace(config.training, init_from=str(folder / "model"), init_ctc_head=""))
    return [(first, folder), (then, Path(output_dir))]

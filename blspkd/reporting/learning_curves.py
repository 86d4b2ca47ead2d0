"""What training logged: the scalars of `exp/<tag>/tensorboard`, or else of the last checkpoint's trainer_state.json.

Divergences are logged, for validation too, as the training computes them: with its temperature, kind and positions.
Curves of trainings that differ there cannot be compared; top-1 agreement and cross-entropy always can.
"""

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import yaml

from blspkd.config import LossConfig

Curve = list[tuple[int, float]]  # (optimiser step, value), by step

DIVERGENCE = ("divergence", "jsd_beta", "temperature", "temperature_squared")
COMPUTED_WITH = {  # settings of the loss; all other terms depend on none
    "input_kl": DIVERGENCE,
    "response_kl": (*DIVERGENCE, "response_positions"),
    "response_top1": ("response_positions",),
    "loss": tuple(field.name for field in dataclasses.fields(LossConfig) if field.name != "chunk_mib"),
}

log = logging.getLogger(__name__)


def read_curves(exp_dir: str | Path) -> dict[str, Curve]:
    """{"train/input_kl": curve, "eval/input_kl": curve, ...}; {} where nothing was logged.

    A run that was killed and went on has steps twice: what was logged later counts.
    """
    return _from_tensorboard(Path(exp_dir) / "tensorboard") or _from_checkpoint(Path(exp_dir))


def read_loss_settings(exp_dir: str | Path) -> dict:
    """The section `loss` of the training's config.yaml, with today's defaults for what it does not say."""
    path = Path(exp_dir) / "config.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    settings = dataclasses.asdict(LossConfig()) | (values.get("loss") or {})
    settings["terms"] = ", ".join(f"{name} {term.get('weight', 1)}" for name, term in settings["terms"].items()) or None
    return settings if settings["divergence"] == "jsd" else settings | {"jsd_beta": None}


def incomparable(settings: Mapping[str, Mapping], name: str) -> dict[str, str]:
    """Trainings whose term `name` is computed otherwise than that of most (of the first, where none is most).

    settings: training -> read_loss_settings(). Returns training -> what differs, for people.
    """
    own = {label: tuple(found.get(key) for key in COMPUTED_WITH.get(name, ())) for label, found in settings.items()}
    [(usual, _)] = Counter(own.values()).most_common(1) or [((), 0)]
    return {label: ", ".join(f"{key} {value}"
                             for key, value, other in zip(COMPUTED_WITH[name], values, usual, strict=True)
                             if value != other)
            for label, values in own.items() if values != usual}


def _from_tensorboard(folder: Path) -> dict[str, Curve]:
    if not any(folder.glob("events.out.tfevents.*")):
        return {}
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})  # 0: all of them
    events.Reload()
    return {tag: _by_step((event.step, event.value) for event in events.Scalars(tag))
            for tag in events.Tags()["scalars"]}


def _from_checkpoint(exp_dir: Path) -> dict[str, Curve]:
    """The Trainer's history: keys `input_kl` of training and `eval_input_kl` of validation."""
    states = sorted(exp_dir.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    try:
        history = json.loads(states[-1].read_text(encoding="utf-8"))["log_history"] if states else []
    except (ValueError, KeyError) as error:
        log.warning("%s: cannot be read (%s); its learning curve is left out", states[-1], error)
        return {}
    curves: dict[str, list] = {}
    for entry in history:
        for key, value in entry.items():
            if key not in ("step", "epoch") and isinstance(value, (int, float)):
                name = f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"
                curves.setdefault(name, []).append((int(entry.get("step", 0)), float(value)))
    return {name: _by_step(points) for name, points in curves.items()}


def _by_step(points) -> Curve:
    return sorted(dict(points).items())

"""What training logged: the scalars of `exp/<tag>/tensorboard`, or else of the last checkpoint's trainer_state.json."""

import json
import logging
from pathlib import Path

Curve = list[tuple[int, float]]  # (optimiser step, value), by step

log = logging.getLogger(__name__)


def read_curves(exp_dir: str | Path) -> dict[str, Curve]:
    """{"train/input_kl": curve, "eval/input_kl": curve, ...}; {} where nothing was logged.

    A run that was killed and went on has steps twice: what was logged later counts.
    """
    return _from_tensorboard(Path(exp_dir) / "tensorboard") or _from_checkpoint(Path(exp_dir))


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

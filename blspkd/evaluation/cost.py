"""What a trained system costs, read off the files that its training left."""

import math
from pathlib import Path

from safetensors import safe_open

from blspkd.config import TrainConfig
from blspkd.config_file import load_config
from blspkd.errors import DataError
from blspkd.evaluation.results import Row, update_results
from blspkd.files import read_json

MIB = 1 << 20


def update_cost_results(exp_dir: str | Path, max_steps: int, processes: int = 1) -> list[Row]:
    """Rows of task `cost`: trained parameters (millions), size of the model's files, time and memory of the training.

    max_steps, processes: of the training, for utterances/s. Time and memory come from the marker of stage 3; without it
    they are left out. Raises DataError where nothing was trained.
    """
    exp_dir = Path(exp_dir)
    config = load_config(TrainConfig, exp_dir / "config.yaml")
    files = sorted((exp_dir / "model").rglob("*.safetensors"))
    if not files:
        raise DataError(f"{exp_dir}/model: no trained model there; run stage 3 first")
    values = {"trained_parameters_m": sum(map(_parameters, files)) / 1e6,
              "checkpoint_mib": sum(path.stat().st_size for path in files) / MIB}
    marker = read_json(exp_dir / ".done" / "train.json")
    if marker.get("finished"):
        heard = max_steps * config.data.batch_utterances * config.training.gradient_accumulation * processes
        values |= {"wall_s": marker["seconds"], "utterances_per_s": heard / max(marker["seconds"], 1e-9)}
        if marker.get("peak_mib"):
            values["peak_mib"] = marker["peak_mib"]
    rows = [Row(config.system, "train", "cost", metric, value, [value, value], 1, config.training.seed, "")
            for metric, value in values.items()]
    update_results(exp_dir / "results.json", rows, lambda row: row.task == "cost")
    return rows


def _parameters(path: Path) -> int:
    with safe_open(path, framework="numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())



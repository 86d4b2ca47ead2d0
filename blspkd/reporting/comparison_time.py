"""How long the rest of a comparison will take."""

import json
from collections.abc import Sequence
from pathlib import Path

from blspkd.evaluation.comparison_plan import Run
from blspkd.files import read_json
from blspkd.reporting.tables import duration


def time_left(runs: Sequence[Run], folder: str | Path, trained_before: str | Path | None, num_jobs: int) -> str:
    """One line: runs, runs that are done, and the time that the others will take, by the speed of what is done.

    Before any run is done, that of the training in `trained_before` counts (which had the machine for itself, as all
    jobs of a comparison together have).
    """
    done = {run.name: _markers(Path(folder) / run.name) for run in runs}
    finished = [run for run in runs if "results" in done[run.name]]
    left = [run for run in runs if run not in finished]
    steps = sum(run.max_steps for run in left)
    line = (f"{len(runs)} runs of {len({run.system for run in runs})} systems, {len(finished)} of them done; "
            f"{steps:,} training steps to go, {num_jobs} at a time")
    trained = [run for run in finished if run.max_steps]
    if trained:
        seconds = sum(sum(done[run.name].values()) for run in trained) / sum(run.max_steps for run in trained)
        return f"{line}: about {duration(seconds * steps / num_jobs)}"
    before = _markers(Path(trained_before)) if trained_before else {}
    made = _steps(Path(trained_before)) if before.get("train") else 0
    if made:
        return (f"{line}: about {duration(before['train'] / made * steps)} for the training, by the speed of "
                f"{trained_before}")
    return f"{line}; the first run will tell the time"


def _markers(folder: Path) -> dict[str, float]:
    """Seconds of every finished step of a run, by the names of its markers."""
    found = {}
    for path in (folder / ".done").glob("*.json"):
        marker = read_json(path)
        if marker.get("finished"):
            found[path.stem] = float(marker.get("seconds", 0))
    return found


def _steps(folder: Path) -> int:
    """Optimiser steps of a finished training; 0 where they are not known."""
    states = sorted(folder.glob("checkpoint-*/trainer_state.json"))
    return max((json.loads(path.read_text(encoding="utf-8"))["global_step"] for path in states), default=0)

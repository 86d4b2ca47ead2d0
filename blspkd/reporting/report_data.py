"""What the report shows, read from experiments' folders: results, curves, alignment, answers."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from blspkd.errors import DataError
from blspkd.evaluation.decode_dir import SUFFIX
from blspkd.evaluation.results import Row, read_results
from blspkd.evaluation.scoring import Experiment as Trained
from blspkd.evaluation.scoring import read_experiment
from blspkd.files import read_rows
from blspkd.reporting.learning_curves import Curve, read_curves, read_loss_settings
from blspkd.reporting.tables import TYPED, system_label

REFERENCES = ("text", "chance")  # systems that are the same whatever was trained
Place = tuple[str, str]  # set, utterance


@dataclass
class Experiment:
    """One `exp/<tag>`; what is not there is empty."""

    path: Path
    label: str
    rows: list[Row] = field(default_factory=list)  # system: the label, but for REFERENCES
    curves: dict[str, Curve] = field(default_factory=dict)
    loss_settings: dict = field(default_factory=dict)  # that its curves were computed with
    snapshots: dict[int, list[Row]] = field(default_factory=dict)  # step -> rows of what the training was after it
    summaries: dict[str, dict] = field(default_factory=dict)  # set -> summary.json of its alignment
    decoded: dict[tuple[str, str, str], Path] = field(default_factory=dict)  # system, task, set -> decode directory

    @cached_property
    def aligned(self) -> dict[str, dict[str, dict]]:
        """Set -> utterance -> row of utterances.jsonl: large, and read only for the experiment that is drawn."""
        return {name: {row["utt_id"]: row for row in read_rows(self.path / f"align_{name}" / "utterances.jsonl")}
                for name in self.summaries}


def read_experiments(exp_dirs: Sequence[str | Path]) -> list[Experiment]:
    """Raises DataError for a folder without results.json, or that is named twice."""
    paths = [Path(path) for path in exp_dirs]
    if len({path.resolve() for path in paths}) < len(paths):
        raise DataError("--exp_dirs: the same folder twice; name each once")
    trained = [_trained(path) for path in paths]
    names = [(one.system, one.seed) for one in trained]
    labels = []
    for path, (system, seed) in zip(paths, names, strict=True):
        seeds = {other_seed for other, other_seed in names if other == system}
        label = system_label(system) + (f" (seed {seed})" if len(seeds) > 1 else "")
        labels.append(label if names.count((system, seed)) == 1 else f"{label} [{path.name}]")
    found = [_read(path, label, system) for path, label, (system, _) in zip(paths, labels, names, strict=True)]
    own_llm = [experiment for experiment, one in zip(found, trained, strict=True) if one.trains_llm]
    if any(row.system == "text" for experiment in found if experiment not in own_llm for row in experiment.rows):
        for experiment in own_llm:
            _tell_typed_apart(experiment)
    return found


def _trained(path: Path) -> Trained:
    """What was trained here; where nothing was, the folder's name."""
    return read_experiment(path) if (path / "config.yaml").is_file() else Trained(path.name, None, counts_tokens=False)


def _tell_typed_apart(experiment: Experiment) -> None:
    """What an LLM with trained weights makes of a transcript is not the "text" of those that are as they were."""
    name = experiment.label + TYPED
    experiment.rows = [replace(row, system=name) if row.system == "text" else row for row in experiment.rows]
    experiment.decoded = {(name if system == "text" else system, task, set_name): folder
                          for (system, task, set_name), folder in experiment.decoded.items()}


def _read(path: Path, label: str, system: str) -> Experiment:
    def named(other: str) -> str:
        return other if other in REFERENCES else label if other == system else f"{system_label(other)}"

    def read(results: Path) -> list[Row]:
        return [replace(row, system=named(row.system), seed=None) for row in read_results(results)]

    rows = read(path / "results.json")
    found = Experiment(path, label, rows, read_curves(path), read_loss_settings(path))
    found.snapshots = {int(results.parent.name): read(results) for results in path.glob("snapshots/*/results.json")
                       if results.parent.name.isdigit()}
    for folder in sorted(path.glob("align_*/")):
        if (folder / "summary.json").is_file() and (folder / "align.json").is_file():
            name = folder.name.removeprefix("align_")
            found.summaries[name] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    tasks = dict.fromkeys((row.task, row.set) for row in rows)
    for task, set_name in tasks:
        for kind, suffix in SUFFIX.items():
            folder = path / f"decode_{task}_{set_name}{suffix}"
            if (folder / "decode.json").is_file():
                name = label if kind == "speech" or label.startswith(kind) else kind
                found.decoded[name, task, set_name] = folder
    return found


def all_rows(experiments: Sequence[Experiment]) -> list[Row]:
    """The rows of all; of what several have (the references), the first one's."""
    found: dict[tuple, Row] = {}
    for experiment in experiments:
        for row in experiment.rows:
            found.setdefault((row.system, row.task, row.metric, row.set), row)
    return list(found.values())


def read_answers(experiments: Sequence[Experiment], places: Sequence[Place]) -> dict[Place, dict[str, dict[str, dict]]]:
    """Place -> system -> task -> row of hyp.jsonl, for these places only; of the references, the first experiment's."""
    folders: dict[tuple[str, str, str], Path] = {}
    for experiment in experiments:
        folders |= {key: folder for key, folder in experiment.decoded.items() if key not in folders}
    found: dict[Place, dict[str, dict[str, dict]]] = {place: {} for place in places}
    for (system, task, set_name), folder in folders.items():
        if any(name == set_name for name, _ in places):
            for row in read_rows(folder / "hyp.jsonl"):
                if (set_name, row["utt_id"]) in found:
                    found[set_name, row["utt_id"]].setdefault(system, {})[task] = row
    return found


def drawn_one(experiments: Sequence[Experiment]) -> Experiment | None:
    """The experiment whose alignment is drawn: the first with CIF, else the first that was measured."""
    measured = [experiment for experiment in experiments if experiment.summaries]
    with_cif = [experiment for experiment in measured
                if any("input_kl" in summary["measures"] for summary in experiment.summaries.values())]
    return next(iter(with_cif or measured), None)


def chosen(experiment: Experiment, number: int, seed: int) -> list[Place]:
    """`number` utterances drawn by `seed` from all sets that were measured, however good they are; sets take turns."""
    draw, sets = random.Random(seed), list(experiment.aligned)
    places: list[Place] = []
    pools = {name: draw.sample(sorted(experiment.aligned[name]), min(number, len(experiment.aligned[name])))
             for name in sets}
    while len(places) < number and any(pools.values()):
        places += [(name, pools[name].pop()) for name in sets if pools[name]]
    return sorted(places[:number])


def worst(experiment: Experiment, number: int) -> tuple[list[Place], str]:
    """The utterances with the largest response KL, and by what: without continuations it is KL of the first token."""
    def response(row: Mapping) -> float | None:
        return sum(row["response_kl"]) / len(row["response_kl"]) if row["response_kl"] else None

    rows = [(name, utt_id, row) for name, found in experiment.aligned.items() for utt_id, row in found.items()]
    by, what = response, "response KL"
    if all(response(row) is None for *_, row in rows):
        by, what = (lambda row: row["first_kl"]), "KL of the first response token"
    ranked = sorted((-by(row), name, utt_id) for name, utt_id, row in rows if by(row) is not None)
    return [(name, utt_id) for _, name, utt_id in ranked[:number]], what

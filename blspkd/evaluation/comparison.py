"""Stage 5: what came out of the runs of a comparison (see `comparison_plan`)."""

import json
import statistics as means
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from blspkd.errors import DataError
from blspkd.evaluation.bootstrap import Statistics, holm, paired_difference
from blspkd.evaluation.comparison_plan import TRANSCRIPT, Run
from blspkd.evaluation.decode_dir import decode_dir_path, read_finished
from blspkd.evaluation.results import Row, read_results, whole_tasks
from blspkd.evaluation.scorers import COUNTS, scorer
from blspkd.evaluation.scoring import mean_statistics
from blspkd.evaluation.typed import with_typed
from blspkd.evaluation_config import DecodeConfig
from blspkd.files import atomic_write


@dataclass(frozen=True)
class Measured:
    """One system's metric on one set: a mean over seeds, and how it differs from the reference system."""

    system: str
    set: str
    task: str
    metric: str
    values: list[float]  # one per seed
    n: int  # utterances
    ci95: list[float]  # of the values over utterances: widest of the seeds
    # mean minus the reference's, or the control's; None for the reference itself, or where not compared
    difference: float | None = None
    difference_ci95: list[float] | None = None  # None too where there are too few utterances to say
    p: float | None = None
    p_holm: float | None = None  # corrected for all systems that were compared on this set and metric
    control: str = ""  # the system that the difference is to; empty: the reference

    @property
    def mean(self) -> float:
        return means.fmean(self.values)

    @property
    def significant(self) -> bool:
        """The difference's interval excludes 0."""
        return self.difference_ci95 is not None and not self.difference_ci95[0] <= 0 <= self.difference_ci95[1]

    @property
    def significant_of_many(self) -> bool:
        """Also among all systems that were compared."""
        return self.significant and self.p_holm is not None and self.p_holm < 0.05


@dataclass(frozen=True)
class Snapshot:
    """One metric of a training that was measured before its end too."""

    system: str
    step: int
    set: str
    task: str
    metric: str
    value: float


@dataclass(frozen=True)
class Comparison:
    """What stage 5 found."""

    reference: str  # the system that all are compared with
    budget: str
    max_steps: int  # optimiser steps of every training; 0: what its own configuration says
    measured: list[Measured]
    snapshots: list[Snapshot] = field(default_factory=list)
    controls: list[Measured] = field(default_factory=list)  # systems that have a control, with their difference to it


def measure(runs: Sequence[Run], reference: str, folder: str | Path, config: DecodeConfig,
            test_sets: Sequence[str]) -> list[Measured]:
    """Means over seeds of everything in the runs' results.json; task metrics with their difference to `reference`.

    Raises DataError where a run has not been decoded and scored, or has seen other utterances than the reference.
    """
    found: dict[tuple[str, str, str, str], list[Row]] = {}
    by_system: dict[str, list[Run]] = {}
    for run in runs:
        by_system.setdefault(run.system, []).append(run)
        for row in _rows(run, folder):
            if row.set in test_sets or row.task == "cost":
                found.setdefault((row.system, row.set, row.task, row.metric), []).append(row)
    order = list(dict.fromkeys([*by_system, *(system for system, *_ in found)]))
    measured = [Measured(*key, [row.value for row in rows], rows[0].n,
                         [min(row.ci95[0] for row in rows), max(row.ci95[1] for row in rows)])
                for key, rows in sorted(found.items(), key=lambda item: order.index(item[0][0]))]
    differences = _Differences(folder, config, runs)
    return _with_holm([differences.between(one, by_system[one.system], by_system[reference])
                       if one.system in by_system and one.system != reference else one for one in measured])


def measure_controls(measured: Sequence[Measured], runs: Sequence[Run], controls: Mapping[str, str],
                     folder: str | Path, config: DecodeConfig) -> list[Measured]:
    """What `measure` found of the systems in `controls`, {system: its control}, with their differences to that."""
    differences = _Differences(folder, config, runs)
    of = {name: [run for run in runs if run.system == name] for name in {*controls, *controls.values()}}
    found = []
    for one in measured:
        control = controls.get(one.system, "")
        if of.get(one.system) and of.get(control):
            alone = replace(one, difference=None, difference_ci95=None, p=None, p_holm=None, control=control)
            found.append(differences.between(alone, of[one.system], of[control]))
    return _with_holm([one for one in found if one.difference is not None])


def _with_holm(measured: Sequence[Measured]) -> list[Measured]:
    """With p corrected over the systems of every set and metric."""
    columns: dict[tuple[str, str, str], dict[str, float]] = {}
    for one in measured:
        if one.p is not None:
            columns.setdefault((one.set, one.task, one.metric), {})[one.system] = one.p
    corrected = {column: dict(zip(found, holm(list(found.values())), strict=True)) for column, found in columns.items()}
    return [replace(one, p_holm=corrected.get((one.set, one.task, one.metric), {}).get(one.system)) for one in measured]


def measure_snapshots(runs: Sequence[Run], folder: str | Path, test_sets: Sequence[str]) -> list[Snapshot]:
    """Task scores and alignment of all snapshots of the plan that have results."""
    found = []
    for run in runs:
        for step in run.snapshots:
            path = Path(folder) / run.name / "snapshots" / str(step) / "results.json"
            found += [Snapshot(run.system, step, row.set, row.task, row.metric, row.value)
                      for row in (whole_tasks(read_results(path)) if path.is_file() else ())
                      if row.system == run.system and row.set in test_sets]
    return found


def _rows(run: Run, folder: str | Path) -> list[Row]:
    """Its results.json, by the systems' names in the comparison.

    Chance is that of one run: others may still have rows from when `chance` of the configuration was another system.
    Alignment is counted where the model was trained or merged, not again where it is decoded otherwise.
    """
    return [replace(row, system=_shown_as(row, run)) for row in read_results(Path(folder) / run.name / "results.json")
            if (row.system != "chance" or run.chance) and not (run.of and not run.merge and row.task == "alignment")]


def _shown_as(row: Row, run: Run) -> str:
    """The system of a row in the comparison: what a trained model makes of typed text is not what it hears."""
    if row.system not in (run.system, "text", "chance"):
        raise DataError(f"{run.name}/results.json: rows of '{row.system}', and this is a run of '{run.system}'; remove "
                        f"the folder {run.name}, and give what differs in {run.config}, not by --train_args")
    return f"{run.system}, typed" if row.system == "text" and not run.reads else row.system


class _Differences:
    """Between systems; the statistics of every run are computed once."""

    def __init__(self, folder: str | Path, config: DecodeConfig, runs: Sequence[Run]):
        readers = [run.name for run in runs if run.reads == TRANSCRIPT]  # compare_run.sh scores with the same
        self.folder = folder
        self.config = replace(config, typed=str(Path(folder) / readers[0])) if readers else config
        self._found: dict[tuple[str, str, str, str], Statistics | None] = {}
        self._utterances: dict[str, tuple[str, list[str]]] = {}  # of a set: whose, and which

    def between(self, one: Measured, runs: Sequence[Run], others: Sequence[Run]) -> Measured:
        """`one` with the difference of the runs of its system to those of another; as it is where there is none."""
        theirs, own = ([self._statistics(run, one.set, one.task, one.metric) for run in same]
                       for same in (others, runs))
        if None in own or None in theirs:
            return one
        difference = paired_difference(own, theirs, self.config.num_bootstrap, self.config.seed,
                                       (not runs[0].reads, not others[0].reads))
        return replace(one, difference=difference.value, p=difference.p,
                       difference_ci95=None if difference.ci95 is None else list(difference.ci95))

    def _statistics(self, run: Run, set_name: str, task: str, metric: str) -> Statistics | None:
        """None for what is no sum over answers (costs, alignment)."""
        key = run.name, set_name, task, metric
        if key not in self._found:
            self._found[key] = self._read(run, set_name, task, metric)
        return self._found[key]

    def _read(self, run: Run, set_name: str, task: str, metric: str) -> Statistics | None:
        if task == "alignment" and metric in COUNTS:
            first = next(iter(self.config.tasks_of(set_name)))
            if run.reads or not decode_dir_path(Path(self.folder) / run.name, first, set_name, run.decoded_as).exists():
                return None
            return COUNTS[metric]().statistics(self._answers(run, set_name, first), self.config.tasks[first])
        parts = self.config.means.get(task, [task])
        if not all(metric in getattr(self.config.tasks.get(part), "metrics", ()) for part in parts):
            return None
        typed = scorer(metric).needs_typed
        if typed and (run.decoded_as == "text" or not self.config.typed):
            return None
        answers = {part: self._answers(run, set_name, part, typed) for part in parts}
        if task in self.config.means:
            return mean_statistics(task, answers, self.config)
        return scorer(metric).statistics(answers[task], self.config.tasks[task])

    def _answers(self, run: Run, set_name: str, task: str, typed: bool = False) -> list[dict]:
        """typed: with the answers to typed transcripts."""
        exp_dir = Path(self.folder) / run.name
        path = decode_dir_path(exp_dir, task, set_name, run.decoded_as)
        answers = read_finished(path)
        if typed:
            answers = with_typed(answers, exp_dir, task, set_name, run.decoded_as, self.config)
        ids = [row["utt_id"] for row in answers]
        whose, known = self._utterances.setdefault(set_name, (run.name, ids))
        if known != ids:
            raise DataError(f"{path}: other utterances than those of {whose}; remove it and run the comparison again")
        return answers


def write_comparison(path: str | Path, comparison: "Comparison") -> None:
    """One line per system, set, task and metric, and per snapshot likewise."""
    head = {"reference": comparison.reference, "budget": comparison.budget, "max_steps": comparison.max_steps}
    with atomic_write(path) as file:
        file.write(json.dumps(head)[:-1])
        for name in ("measured", "snapshots", "controls"):
            found = getattr(comparison, name)
            lines = [json.dumps(asdict(one), ensure_ascii=False) for one in found]
            file.write(f', "{name}": [\n' + ",\n".join(lines) + "\n]")
        file.write("}\n")


def read_comparison(path: str | Path) -> "Comparison":
    """Raises DataError where it is missing or damaged."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        return Comparison(**{**values, "measured": [Measured(**one) for one in values["measured"]],
                             "snapshots": [Snapshot(**one) for one in values["snapshots"]],
                             "controls": [Measured(**one) for one in values.get("controls", [])]})
    except FileNotFoundError:
        raise DataError(f"{path}: missing; run stage 5 (compare)") from None
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: damaged ({error}); remove it and run stage 5 (compare) again") from None


def all_rows(runs: Sequence[Run], folder: str | Path) -> list[Row]:
    """The rows of all runs' results.json, by the systems' names in the comparison."""
    return [row for run in runs for row in _rows(run, folder)]

"""`report.html`: everything that a person looks at, in one file that opens without a network.

Numbers come from `results.json`, curves from what training logged, pictures of utterances from `align_<set>/` of the
first experiment that has one, answers from the decode directories. What the page says stands in its template.
"""

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

from blspkd.errors import DataError
from blspkd.evaluation.results import Row, count_splits, question_types, whole_tasks
from blspkd.evaluation.scorers import HEALTH, SCORERS, with_parts
from blspkd.files import atomic_write
from blspkd.reporting import cards, figures
from blspkd.reporting.clouds import colours_of, draw_clouds
from blspkd.reporting.learning_curves import incomparable
from blspkd.reporting.pages import render
from blspkd.reporting.report_data import Experiment, all_rows, chosen, drawn_one, read_experiments, worst
from blspkd.reporting.tables import TYPED, Table, arrange, metric_label

log = logging.getLogger(__name__)
CURVES = ("input_kl", "response_kl", "response_ce", "input_top1", "response_top1", "count_accuracy", "quantity", "loss")
# what other terms logged follows, but for these
NO_CURVES = {"learning_rate", "grad_norm", "epoch", "total_flos"}
KINDS = ("train", "eval")  # of curves
ALIGNMENT = ("input_kl", "top1", "response_kl", "first_kl", "response_top1", "nearest_wer", "nearest_top1",
             "r1_speech_to_text", "r1_text_to_speech", "count_accuracy", "count_mae", "boundary_median_ms",
             "boundary_bias_ms", "boundary_within_50", "boundary_within_100")
SLICED = ("input_kl", "top1", "response_kl", "nearest_wer", "count_accuracy", "boundary_median_ms", "boundary_bias_ms")


def write_report(exp_dirs: Sequence[str | Path], output: str | Path, *, title: str = "BLSP-KD: results",
                 num_chosen: int = 6, num_worst: int = 20, seed: int = 0) -> int:
    """Write `output`; returns its size in bytes. Raises DataError for a folder without results."""
    if not exp_dirs:
        raise DataError("--exp_dirs: name at least one exp/<tag>")
    experiments = read_experiments(exp_dirs)
    rows = all_rows(experiments)
    text = render("report.html", title=title, labels=[experiment.label for experiment in experiments],
                  **_results(rows), **_curves(experiments), positions=_positions(experiments),
                  clouds=draw_clouds(experiments), **_utterances(experiments, num_chosen, num_worst, seed),
                  **_others(rows))
    with atomic_write(output) as file:
        file.write(text + "\n")
    return len(text.encode("utf-8")) + 1


def _results(rows: Sequence[Row]) -> dict:
    """Tables of tasks, of their parts (types of questions, numbers of tokens), and of alignment."""
    tasks = []
    for task in dict.fromkeys(row.task for row in whole_tasks(rows) if row.metric in SCORERS):
        table = _of_task(rows, task, SCORERS)
        sizes = sorted({row.n for row in table.cells.values()})
        tasks.append((task, "-".join(map(str, dict.fromkeys((sizes[0], sizes[-1])))), table))
    aligned = sorted((row for row in rows if row.task == "alignment" and row.metric in ALIGNMENT),
                     key=lambda row: ALIGNMENT.index(row.metric))
    sets = dict.fromkeys(row.set for row in rows if row in aligned)
    return {"tasks": tasks, "typed": any(row.system.endswith(TYPED) for row in rows),
            "counts": [(*which, arrange(own, SCORERS)) for which, own in count_splits(rows).items()],
            "types": [(*which, arrange(own, SCORERS)) for which, own in question_types(rows).items()],
            "aligned": [(name, arrange([row for row in aligned if row.set == name], ALIGNMENT)) for name in sets]}


def _of_task(rows: Sequence[Row], task: str, metrics: Sequence[str]) -> Table:
    return arrange([row for row in rows if row.task == task], list(metrics))


def _curves(experiments: Sequence[Experiment]) -> dict:
    """A picture of the learning curves, and those that are left out of it: [(metric, [(system, why)])]."""
    curves = {experiment.label: dict(experiment.curves) for experiment in experiments if experiment.curves}
    logged = {key.partition("/")[2] for found in curves.values() for key, points in found.items() if len(points) > 1}
    own = sorted(name for name in logged - {*CURVES, *NO_CURVES} if not name.startswith("train_"))  # the run's speed
    names = [name for name in (*CURVES, *own) if name in logged]
    if not names:
        return {"curves": None}
    not_comparable = []
    for name in names:
        left_out = incomparable({experiment.label: experiment.loss_settings for experiment in experiments
                                 if any(f"{kind}/{name}" in experiment.curves for kind in KINDS)}, name)
        for label, kind in itertools.product(left_out, KINDS):
            curves[label].pop(f"{kind}/{name}", None)
        if left_out:
            differing = {figures.system_of(label): why for label, why in left_out.items()}
            not_comparable.append((name, list(differing.items())))
    picture = figures.learning_curves(curves, names, colours_of(experiments))
    return {"curves": figures.data_uri(picture), "not_comparable": not_comparable}


def _positions(experiments: Sequence[Experiment]) -> list[tuple[str, str]]:
    """Set -> picture of KL by position."""
    pictures = []
    for name in dict.fromkeys(name for experiment in experiments for name in experiment.summaries):
        curves = {experiment.label: experiment.summaries[name]["by_position"] for experiment in experiments
                  if name in experiment.summaries}
        keys = [key for key in ("input_kl", "response_kl")
                if any(len(figures.reached(found.get(key, ()))) > 1 for found in curves.values())]
        if keys:
            picture = figures.kl_by_position(curves, keys, colours_of(experiments))
            pictures.append((name, figures.data_uri(picture)))
    return pictures


def _utterances(experiments: Sequence[Experiment], num_chosen: int, num_worst: int, seed: int) -> dict:
    """Slices and cards of the experiment that is drawn."""
    main = drawn_one(experiments)
    if main is None:
        return {"drawn": None}
    some = chosen(main, num_chosen, seed)
    places, what = worst(main, num_worst)
    maker = cards.Cards(main, experiments, [*some, *places])
    values = {"drawn": main.label, "slices": _slices(main), "num_chosen": num_chosen, "seed": seed,
              "some": [maker.card(place) for place in some], "worst": [maker.card(place) for place in places],
              "worst_by": what, "left_out": maker.left_out, "max_mb": cards.MAX_BYTES >> 20}
    if maker.left_out:
        log.warning("%d recordings or pictures are left out to keep the page below %d MB", maker.left_out,
                    cards.MAX_BYTES >> 20)
    return values


def _slices(main: Experiment) -> list[tuple[str, str, list[str], list[list[str]]]]:
    """Set, kind of slice, heads and lines of a table."""
    tables = []
    for name, summary in main.summaries.items():
        for kind, entries in {**summary["slices"], **summary["token_slices"]}.items():
            columns = [key for key in SLICED if any(key in entry for entry in entries)]
            lines = [[entry["label"], str(entry["n"]),
                      *(f"{entry[key]:.2f}" if key in entry else "-" for key in columns)] for entry in entries]
            if lines:
                tables.append((name, kind, [kind, "n", *map(metric_label, columns)], lines))
    return tables


def _others(rows: Sequence[Row]) -> dict:
    """Output health, all measurements that stand nowhere else, and signatures."""
    shown = with_parts(SCORERS | HEALTH)
    rest = [row for row in rows if row.metric not in shown
            and not (row.task == "alignment" and row.metric in ALIGNMENT)]
    healthy = dict.fromkeys(task for task, _, _ in arrange(rows, HEALTH).columns)
    signatures = dict.fromkeys((metric_label(row.metric), row.signature) for row in rows if row.signature)
    return {"health": [(task, _of_task(rows, task, HEALTH)) for task in healthy], "signatures": list(signatures),
            "others": [(task, _of_task(rest, task, dict.fromkeys(row.metric for row in rest if row.task == task)))
                       for task in dict.fromkeys(row.task for row in rest)]}

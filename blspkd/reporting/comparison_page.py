"""The tables of stage 5: every system's mean over seeds, and whether it differs from the reference system."""

import textwrap
from collections.abc import Mapping, Sequence
from statistics import fmean

from blspkd.evaluation.bootstrap import FEWEST
from blspkd.evaluation.changed_answers import CHANGED
from blspkd.evaluation.comparison import Comparison, Measured
from blspkd.evaluation.results import TYPE, is_by_count
from blspkd.evaluation.scorers import HEALTH, SCORERS
from blspkd.reporting import tables
from blspkd.reporting.correlation import FEW, Pairs, rho_text, spearman
from blspkd.reporting.pages import render

MEANINGS = "In percent. " + "; ".join(f"{scorer.label}: {scorer.meaning}" for scorer in HEALTH.values()) + "."
COUNTED = ("Right: as many speech tokens as the transcript has tokens. Every system has utterances of its own in each "
           "part.")
OTHERWISE = ("Percentage of answers that are not those of the system that the file names as `of`, whose models are "
             "decoded otherwise.")
COUNT = ("alignment", "count_accuracy")
ALIGNMENT = ("input_kl", "top1", "first_kl", "response_kl", "response_top1", "nearest_wer", "nearest_top1",
             "r1_speech_to_text", "r1_text_to_speech", "count_mae", "boundary_median_ms", "boundary_mean_ms",
             "boundary_within_50", "boundary_within_100")
COST = ("trained_parameters_m", "checkpoint_mib", "wall_s", "peak_mib", "utterances_per_s")
DRIFT = ("kl_to_base", "changed_top1", "max_state_diff")
Column = tuple[str, str]  # task, metric


def markdown(comparison: Comparison) -> str:
    """All tables, set by set, as Markdown."""
    measured, tasks = comparison.measured, _task_metrics(comparison.measured)
    health_of = next((one.task for one in measured if one.metric in HEALTH), "")
    parts = list(dict.fromkeys((one.task, one.metric) for one in measured if TYPE in one.task and
                               one.metric != CHANGED))
    types, counts = ([column for column in parts if is_by_count(column[0]) == which] for which in (False, True))
    groups = [  # title, what its numbers mean, columns
        ("", "", tasks),
        *((f"{task} by type of question", "", [column for column in types if column[0].startswith(task + TYPE)])
          for task in dict.fromkeys(task.partition(TYPE)[0] for task, _ in types)),
        *((f"{task} by the number of speech tokens", COUNTED,
           [column for column in counts if column[0].startswith(task + TYPE)])
          for task in dict.fromkeys(task.partition(TYPE)[0] for task, _ in counts)),
        ("Alignment", "", [("alignment", metric) for metric in ALIGNMENT]),
        ("Answers that change", OTHERWISE, list(dict.fromkeys((one.task, CHANGED) for one in measured
                                                              if one.metric == CHANGED))),
        (f"Output health of {health_of}", MEANINGS, [(health_of, metric) for metric in HEALTH]),
        ("Cost", "", [("cost", metric) for metric in COST]),
        ("What training did to the LLM on text", "", [("text", metric) for metric in DRIFT])]
    beside = {"": [("asr", "wer"), COUNT]}  # columns that do not make a table of their own
    predictions = [(name, *table) for name in _sets(measured, [COUNT, *(("alignment", metric) for metric in ALIGNMENT)])
                   if (table := _predictions(comparison, name, tables.first_metrics(tasks)))]
    return render("comparison.md", comparison=comparison, ranges=True, **_legend(comparison), predictions=predictions,
                  snapshots=any(one.task == "alignment" for one in comparison.snapshots),
                  controls=[(name, _controls(comparison.controls, name)) for name in _sets(comparison.controls, tasks)],
                  groups=[(title, meaning, [(name, _table(measured, name, columns + beside.get(title, [])))
                                            for name in _sets(measured, columns)])
                          for title, meaning, columns in groups])


def screen(comparison: Comparison) -> str:
    """The task tables for a terminal: means and differences, one metric a task."""
    task_metrics = _task_metrics(comparison.measured)
    first = tables.first_metrics(task_metrics)
    blocks = []
    for set_name in _sets(comparison.measured, task_metrics):
        heads, rows = _cells(comparison.measured, set_name, [*first, COUNT], with_range=False)
        widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
        blocks.append("\n".join(tables.GAP.join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width)
                                                in enumerate(zip(row, widths, strict=True))).rstrip()
                                for row in [[set_name, *heads[1:]], *rows]))
    times = {one.system: one.mean for one in comparison.measured if (one.task, one.metric) == ("cost", "wall_s")}
    if times:
        blocks.append("training time  " + ", ".join(f"{tables.system_label(system)} {tables.duration(seconds)}"
                                                     for system, seconds in times.items()))
    blocks.append(render("comparison_legend.md", ranges=False, **_legend(comparison)))
    return "\n\n".join(textwrap.fill(block, tables.WIDTH) if "\n" not in block else block for block in blocks)


def _controls(controls: Sequence[Measured], set_name: str) -> str:
    """Systems with their controls, and the differences to these with their intervals."""
    columns = list(dict.fromkeys((one.task, one.metric) for one in controls
                                 if one.set == set_name and TYPE not in one.task))
    rows: dict[tuple[str, str], dict[Column, str]] = {}
    for one in controls:
        if one.set == set_name:
            interval = "" if one.difference_ci95 is None else " [{:+.1f}, {:+.1f}]".format(*one.difference_ci95)
            rows.setdefault((one.system, one.control), {})[one.task, one.metric] = \
                f"{one.difference:+.1f}{interval}{_stars(one)}"
    heads = ["system", "control", *(tables.escape(_head(column, [])) for column in columns)]
    lines = [[*(tables.escape(tables.system_label(name)) for name in pair),
              *(row.get(column, "-") for column in columns)] for pair, row in rows.items()]
    return tables.markdown_table(heads, lines)


def _legend(comparison: Comparison) -> dict:
    """What `comparison_legend.md` says."""
    return {"reference": tables.system_label(comparison.reference), "fewest": FEWEST,
            "once": all(len(one.values) == 1 for one in comparison.measured),
            "untested": any(one.difference is not None and one.p is None for one in comparison.measured)}


def _task_metrics(measured: Sequence[Measured]) -> list[Column]:
    """Tasks with their metrics, in the order in which they were measured."""
    return list(dict.fromkeys((one.task, one.metric) for one in measured
                              if one.metric in SCORERS and one.task != "asr" and TYPE not in one.task))


def _predictions(comparison: Comparison, set_name: str, task_metrics: Sequence[Column]) -> tuple[str, list] | None:
    """Spearman's correlation of every alignment measure with every task, a point for every trained model and snapshot.

    A table and `_extremes`; None where there are too few points.
    """
    finished = {(one.system, one.task, one.metric): one.values for one in comparison.measured if one.set == set_name}
    before = {((one.system, one.step), one.task, one.metric): [one.value] for one in comparison.snapshots
              if one.set == set_name}
    lines, strengths = [], {}
    for metric in (*ALIGNMENT, COUNT[1]):
        points = [(_pairs(finished, metric, column), _pairs(before, metric, column)) for column in task_metrics]
        if any(len(ends) + len(steps) > 2 for ends, steps in points):
            label = tables.metric_label(metric)
            lines.append([label, *(rho_text(ends, steps) for ends, steps in points)])
            strengths[label] = [(abs(rho), len(pairs)) for pairs in (ends + steps for ends, steps in points)
                                if len(pairs) >= FEW and (rho := spearman(*zip(*pairs, strict=True))) is not None]
    heads = ["measure", *(f"{task} {tables.metric_label(metric)}" for task, metric in task_metrics)]
    return (tables.markdown_table(heads, lines), _extremes(strengths)) if lines else None


def _pairs(values: Mapping[tuple, list[float]], metric: str, column: Column) -> Pairs:
    """(alignment, score) of all models; a system of which some seeds have no alignment is left out."""
    return [pair for (model, *what), found in values.items() if what == ["alignment", metric]
            for scores in [values.get((model, *column), [])] if len(scores) == len(found)
            for pair in zip(found, scores, strict=True)]


def _extremes(strengths: Mapping[str, list[tuple[float, int]]]) -> list[str]:
    """The measures that go with the scores most and least closely; none where there are few points."""
    means = {label: fmean(rho for rho, _ in found) for label, found in strengths.items() if found}
    if len(set(means.values())) < 2:
        return []
    said = []
    for label in (max(means, key=means.get), min(means, key=means.get)):
        sizes = sorted({n for _, n in strengths[label]})
        said.append(f"{label} ({means[label]:.2f}, n={'-'.join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))})")
    return said


def _sets(measured: Sequence[Measured], columns: Sequence[Column]) -> list[str]:
    """Those that have any of the columns, in the order of the tasks' sets (files begin with what came last)."""
    order = dict.fromkeys(one.set for one in sorted(measured, key=lambda one: one.metric not in SCORERS))
    found = {one.set for one in measured if (one.task, one.metric) in columns}
    return [name for name in order if name in found]


def _table(measured: Sequence[Measured], set_name: str, columns: Sequence[Column]) -> str:
    heads, rows = _cells(measured, set_name, columns, with_range=True)
    return tables.markdown_table([*map(tables.escape, heads)], [[tables.escape(row[0]), *row[1:]] for row in rows])


def _cells(measured: Sequence[Measured], set_name: str, columns: Sequence[Column],
           with_range: bool) -> tuple[list[str], list[list[str]]]:
    """Heads and rows; columns and systems that have nothing to show are left out."""
    found = {(one.system, one.task, one.metric): one for one in measured if one.set == set_name}
    columns = [column for column in columns if any((system, *column) in found for system, *_ in found)]
    systems = [system for system in dict.fromkeys(one.system for one in measured)
               if any((system, *column) in found for column in columns)]
    heads = ["system", *(_head(column, [found[key] for key in found if key[1:] == column]) for column in columns)]
    rows = [[_label(system, [one for key, one in found.items() if key[0] == system]),
             *(_cell(found.get((system, *column)), with_range) for column in columns)] for system in systems]
    return heads, rows


def _head(column: Column, measured: Sequence[Measured]) -> str:
    """Types of questions say how many utterances they have; of whole tasks, other tables say so.

    How many have the right number of tokens differs from system to system: the cells say it.
    """
    task, metric = column
    if metric not in SCORERS and metric != CHANGED:
        return tables.metric_label(metric)
    size = f" (n={measured[0].n})" if TYPE in task and not is_by_count(task) else ""
    return f"{task} {tables.metric_label(metric)}{size}"


def _label(system: str, own: Sequence[Measured]) -> str:
    seeds = max(len(one.values) for one in own)
    return tables.system_label(system) + (f" ({seeds} seeds)" if seeds > 1 else "")


def _cell(one: Measured | None, with_range: bool) -> str:
    if one is None:
        return "-"
    text = _number(one.mean, one.metric)
    if with_range and len(one.values) > 1:
        text += f" [{_number(min(one.values), one.metric)} - {_number(max(one.values), one.metric)}]"
    if is_by_count(one.task):
        text += f" (n={one.n})"
    if one.difference is not None:
        text += f" ({one.difference:+.1f}{_stars(one)})"
    return text


def _stars(one: Measured) -> str:
    return "*" * (one.significant + one.significant_of_many)


def _number(value: float, metric: str) -> str:
    return f"{value:.3f}" if "kl" in metric or metric in ("count_mae", "trained_parameters_m", "max_state_diff") else \
        f"{value:.1f}"

"""The tables of stage 5: every system's mean over seeds, and whether it differs from the reference system."""

from collections.abc import Sequence

from blspkd.evaluation import tables
from blspkd.evaluation.comparison import Measured

# What the task tables show, in this order: task and metric; "*" stands for the tasks of conf/decode.yaml.
LEGEND = ("Mean over seeds [lowest - highest]; behind it the difference to {reference}, with * where its 95% interval "
          "(paired bootstrap over utterances and seeds) excludes 0. Unmarked differences may be chance.")
COUNT = ("alignment", "count_accuracy")
ALIGNMENT = ("input_kl", "top1", "first_kl", "response_kl", "response_top1", "count_mae", "boundary_median_ms",
             "boundary_mean_ms", "boundary_within_50", "boundary_within_100")
COST = ("trained_parameters_m", "checkpoint_mib", "wall_s", "peak_mib", "utterances_per_s")
DRIFT = ("kl_to_base", "changed_top1", "max_state_diff")
Column = tuple[str, str]  # task, metric


def markdown(measured: Sequence[Measured], reference: str, task_metrics: Sequence[Column]) -> str:
    """All tables, set by set, as Markdown. task_metrics: (task, metric) in the order of the columns."""
    blocks = [LEGEND.format(reference=tables.system_label(reference))]
    for set_name in _sets(measured, task_metrics):
        blocks += [f"### {tables.escape(set_name)}",
                   _table(measured, set_name, [*task_metrics, ("asr", "wer"), COUNT], with_range=True)]
    for title, task, metrics in (("Alignment", "alignment", ALIGNMENT), ("Cost", "cost", COST),
                                 ("What training did to the LLM on text", "text", DRIFT)):
        columns = [(task, metric) for metric in metrics]
        for set_name in _sets(measured, columns):
            blocks += [f"### {title}: {tables.escape(set_name)}", _table(measured, set_name, columns, with_range=True)]
    return "\n\n".join(blocks)


def screen(measured: Sequence[Measured], reference: str, task_metrics: Sequence[Column]) -> str:
    """The task tables for a terminal: means and differences."""
    first = list({task: (task, metric) for task, metric in reversed(task_metrics)}.values())[::-1]
    blocks = []
    for set_name in _sets(measured, task_metrics):
        heads, rows = _cells(measured, set_name, [*first, COUNT], with_range=False)
        widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
        lines = [tables.GAP.join(cell.ljust(width) if not i else cell.rjust(width)
                                 for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
                 for row in [[set_name, *heads[1:]], *rows]]
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, LEGEND.format(reference=tables.system_label(reference)).replace(" [lowest - highest]",
                                                                                                 "")])


def _sets(measured: Sequence[Measured], columns: Sequence[Column]) -> list[str]:
    return list(dict.fromkeys(one.set for one in measured if (one.task, one.metric) in columns))


def _table(measured: Sequence[Measured], set_name: str, columns: Sequence[Column], with_range: bool) -> str:
    heads, rows = _cells(measured, set_name, columns, with_range)
    return tables.markdown_table(heads, [[tables.escape(row[0]), *row[1:]] for row in rows])


def _cells(measured: Sequence[Measured], set_name: str, columns: Sequence[Column],
           with_range: bool) -> tuple[list[str], list[list[str]]]:
    """Heads and rows; columns and systems that have nothing to show are left out."""
    found = {(one.system, one.task, one.metric): one for one in measured if one.set == set_name}
    columns = [column for column in columns if any((system, *column) in found for system, *_ in found)]
    systems = [system for system in dict.fromkeys(one.system for one in measured)
               if any((system, *column) in found for column in columns)]
    heads = ["system", *(tables.metric_label(metric) if task in ("alignment", "cost", "text") else
                         f"{task} {tables.metric_label(metric)}" for task, metric in columns)]
    rows = [[_label(system, [one for key, one in found.items() if key[0] == system]),
             *(_cell(found.get((system, *column)), with_range) for column in columns)] for system in systems]
    return heads, rows


def _label(system: str, own: Sequence[Measured]) -> str:
    seeds = max(len(one.values) for one in own)
    return tables.system_label(system) + (f" ({seeds} seeds)" if seeds > 1 else "")


def _cell(one: Measured | None, with_range: bool) -> str:
    if one is None:
        return "-"
    text = _number(one.mean, one.metric)
    if with_range and len(one.values) > 1:
        text += f" [{_number(min(one.values), one.metric)} - {_number(max(one.values), one.metric)}]"
    if one.difference is not None:
        text += f" ({one.difference:+.1f}{'*' if one.significant else ''})"
    return text


def _number(value: float, metric: str) -> str:
    return f"{value:.3f}" if "kl" in metric or metric in ("count_mae", "trained_parameters_m", "max_state_diff") else \
        f"{value:.1f}"

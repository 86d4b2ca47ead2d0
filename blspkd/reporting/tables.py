"""Tables of `results.json` rows: aligned for the screen, Markdown for RESULTS.md; "-" where a row is missing."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from blspkd.evaluation.results import Row, whole_tasks
from blspkd.evaluation.scorers import COUNTS, HEALTH, SCORERS, with_parts
from blspkd.evaluation.scorers.errors import ErrorRate

DECIMALS = {"_kl": 3, "count_mae": 2, "count_bias": 2}  # of metrics that end so or hold this; 1 of all others
DRIFT = ("kl_to_base", "max_state_diff")  # exactly 0 or not is what matters, so that no small one is rounded to 0
SYSTEM_ORDER = ("text", "chance", "cascade")  # then all others by name
TYPED = ", typed"  # ends the name of a trained system that reads the transcript
WIDTH = 100  # characters of a screen table
GAP = "  "

System = tuple[str, int | None]  # name, seed
Pair = tuple[str, str]  # task, metric
Column = tuple[str, str, str]  # task, metric, set


@dataclass(frozen=True)
class Table:
    """Systems by (task, metric, set), for one selection of rows."""

    systems: list[System]
    columns: list[Column]  # the sets of one (task, metric) side by side
    cells: dict[tuple[System, Column], Row]

    def label(self, system: System) -> str:
        name, seed = system
        several = sum(other == name for other, _ in self.systems) > 1
        return system_label(name) + (f" (seed {seed})" if several else "")

    def sizes(self, column: Column) -> str:
        """The number of utterances, or the range over systems where they differ."""
        found = sorted({row.n for (_, place), row in self.cells.items() if place == column})
        return f"n={found[0]}" if len(found) == 1 else f"n={found[0]}-{found[-1]}"


def arrange(rows: Sequence[Row], metrics: Collection[str]) -> Table:
    """The rows of `metrics`; tasks, metrics and sets in the order in which they first appear, the tasks' sets first."""
    sets = list(dict.fromkeys(row.set for row in sorted(rows, key=lambda row: row.metric not in SCORERS)))
    rows = [row for row in rows if row.metric in metrics]
    systems = sorted({(row.system, row.seed) for row in rows}, key=_system_rank)
    pairs = list(dict.fromkeys((row.task, row.metric) for row in rows))
    cells = {((row.system, row.seed), (row.task, row.metric, row.set)): row for row in rows}
    present = {column for _, column in cells}
    columns = [(*pair, name) for pair in pairs for name in sets if (*pair, name) in present]
    return Table(systems, columns, cells)


def screen(rows: Sequence[Row]) -> str:
    """What the last stage prints: the tasks' table with 95% intervals, and token-count accuracy below it."""
    rows = whole_tasks(rows)
    table = arrange(rows, SCORERS)
    blocks = [_screen_block(table, pairs) for pairs in _fitting(table)]
    counts = arrange(rows, ["count_accuracy"])
    if counts.systems:
        lines = ["token-count accuracy (utterances with exactly as many speech tokens as transcript tokens)"]
        width = max(len(counts.label(system)) for system in counts.systems)
        for system in counts.systems:
            found = [(column, counts.cells.get((system, column))) for column in counts.columns]
            cells = [f"{column[2]} {value_text(row)} ({interval_text(row)}, n={row.n})" for column, row in found if row]
            lines.append(GAP.join([counts.label(system).ljust(width), *cells]))
        blocks.append("\n".join(lines))
    names = {name for name, _ in table.systems}
    if "text" in names:
        legend = "text: the transcript typed in (upper bound); chance: the speech of another utterance"
        if any(name.partition("-")[0] == "cascade" for name in names):
            legend += ";\ncascade: what a speech recogniser wrote typed in"
        blocks.append(legend)
    return "\n\n".join(blocks) if blocks else "no results yet"


def markdown(table: Table) -> str:
    """`table` as Markdown: one row per system, each cell with its interval."""
    if not table.systems:
        return ""
    heads = [f"{escape(task)} {metric_label(metric)}<br>{escape(name)}, {table.sizes((task, metric, name))}"
             for task, metric, name in table.columns]
    lines = [[escape(table.label(system)), *(_cell(table.cells.get((system, column))) for column in table.columns)]
             for system in table.systems]
    return markdown_table(["system", *heads], lines)


def markdown_tasks(rows: Sequence[Row]) -> str:
    """One table per task: next to each other they would be too wide to read."""
    rows = whole_tasks(rows)
    tasks = dict.fromkeys(row.task for row in rows if row.metric in SCORERS)
    return "\n\n".join(markdown(arrange([row for row in rows if row.task == task], SCORERS))
                       for task in tasks)


def markdown_parts(parts: Mapping[tuple[str, str], Sequence[Row]]) -> str:
    """Of tasks, by type of question or by whether the number of speech tokens is right: a table per task and set."""
    return "\n\n".join(markdown(arrange(rows, SCORERS)) for rows in parts.values())


def markdown_errors(rows: Sequence[Row]) -> str:
    """ESPnet's view of WER and CER: correct, substituted, deleted, inserted units and wrong sentences, in percent."""
    lines = []
    rows = whole_tasks(rows)
    by_key = {(row.system, row.seed, row.set, row.task, row.metric): row for row in rows}
    table = arrange(rows, [metric for metric, scorer in SCORERS.items() if issubclass(scorer, ErrorRate)])
    for system in table.systems:
        for task, metric, name in table.columns:
            found = [by_key.get((*system, name, task, metric + part)) for part in ("", *ErrorRate.parts)]
            if all(found):
                total, sub, deleted, inserted, sentences = (row.value for row in found)
                numbers = (100 - sub - deleted, sub, deleted, inserted, total, sentences)
                lines.append([f"{escape(table.label(system))}/{task}/{name}", metric_label(metric), str(found[0].n),
                              *(f"{number:.1f}" for number in numbers)])
    heads = ["system/task/set", "rate", "Snt", "Corr", "Sub", "Del", "Ins", "Err", "S.Err"]
    return markdown_table(heads, lines, num_texts=2) if lines else ""


def markdown_health(rows: Sequence[Row]) -> str:
    """Bad answers: percent empty, looped, copied, words of no reference, and words per reference word."""
    table = arrange(rows, HEALTH)
    lines = []
    for system in table.systems:
        for task, name in dict.fromkeys((task, name) for task, _, name in table.columns):
            found = [table.cells.get((system, (task, metric, name))) for metric in HEALTH]
            if any(found):
                lines.append([f"{escape(table.label(system))}/{task}/{name}", *(value_text(row) for row in found)])
    return markdown_table(["system/task/set", *map(metric_label, HEALTH)], lines) if lines else ""


def markdown_others(rows: Sequence[Row]) -> str:
    """All measurements that no other table shows."""
    shown = with_parts(SCORERS | HEALTH)
    table = arrange(rows, [row.metric for row in rows if row.metric not in shown])
    lines = [[escape(table.label(system)), task, metric_label(metric), name, _cell(row), str(row.n)]
             for system in table.systems for task, metric, name in table.columns
             if (row := table.cells.get((system, (task, metric, name))))]
    return markdown_table(["system", "task", "measurement", "set", "value", "n"], lines, num_texts=4) if lines else ""


def markdown_table(heads: Sequence[str], lines: Sequence[Sequence[str]], num_texts: int = 1) -> str:
    """The first `num_texts` columns to the left, numbers to the right."""
    rule = ["---"] * num_texts + ["---:"] * (len(heads) - num_texts)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [heads, rule, *lines])


def escape(text: str) -> str:
    """Make `text` harmless inside a Markdown table or paragraph."""
    return re.sub(r"([\\|<>*`\[\]])", r"\\\1", " ".join(text.split()))


def system_label(name: str) -> str:
    """blspkd+plora -> BLSP-KD+plora; text, chance and cascade as they are."""
    return re.sub("^blspkd", "BLSP-KD", name) if name.startswith("blspkd") else re.sub("^blsp", "BLSP", name)


def duration(seconds: float) -> str:
    """75.2 -> 1 min 15 s."""
    total = round(seconds)
    hours, minutes = divmod(total // 60, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {total % 60:02d} s" if minutes else f"{total} s"


def metric_label(metric: str) -> str:
    """Of a scorer as it says, of other measurements made from their names."""
    scorers = SCORERS | HEALTH | COUNTS
    if metric in scorers:
        return scorers[metric].label
    return metric.replace("_kl", "_KL").replace("top1", "top-1").replace("r1_", "R@1 ").replace("_", " ")


def first_metrics(pairs: Sequence[Pair]) -> list[Pair]:
    """Every task's first metric."""
    return list({task: (task, metric) for task, metric in reversed(pairs)}.values())[::-1]


def _system_rank(system: System) -> tuple:
    name, seed = system
    kind = name.partition("-")[0]  # cascade-weak is a cascade
    known = SYSTEM_ORDER.index(kind) if kind in SYSTEM_ORDER else len(SYSTEM_ORDER)
    return known, name, -1 if seed is None else seed


def _fitting(table: Table) -> list[list[Pair]]:
    """The (task, metric) pairs, cut into blocks that fit on the screen; a block always holds at least one pair.

    Every task's first metric comes before the further ones, so that the first block compares the tasks.
    """
    pairs = list(dict.fromkeys(column[:2] for column in table.columns))
    first = first_metrics(pairs)
    blocks: list[list[Pair]] = []
    used = 0
    for pair in sorted(pairs, key=lambda pair: pair not in first):
        width = sum(_column_width(table, column) + len(GAP) for column in table.columns if column[:2] == pair)
        if not blocks or used + width > WIDTH:
            blocks.append([])
            used = _label_width(table)
        blocks[-1].append(pair)
        used += width
    return blocks


def _screen_block(table: Table, pairs: list[Pair]) -> str:
    """Three header lines (task and metric, set, n), then for every system its values and below them the intervals."""
    columns = [column for pair in pairs for column in table.columns if column[:2] == pair]
    label, widths = _label_width(table), [_column_width(table, column) for column in columns]

    def line(first: str, cells: Sequence[str]) -> str:
        return GAP.join([first.ljust(label), *(c.rjust(w) for c, w in zip(cells, widths, strict=True))]).rstrip()

    titles = []
    for pair in pairs:
        own = [width for column, width in zip(columns, widths, strict=True) if column[:2] == pair]
        titles.append(_title(pair).center(sum(own) + len(GAP) * (len(own) - 1), "-"))
    lines = [GAP.join([" " * label, *titles]), line("", [column[2] for column in columns]),
             line("95% interval", [table.sizes(column) for column in columns])]
    for system in table.systems:
        rows = [table.cells.get((system, column)) for column in columns]
        lines.append(line(table.label(system), [value_text(row) for row in rows]))
        if any(rows):
            lines.append(line("", [f"({interval_text(row)})" if row else "" for row in rows]))
    return "\n".join(lines)


def _title(pair: Pair) -> str:
    return f" {pair[0]} {metric_label(pair[1])} "


def _label_width(table: Table) -> int:
    return max(len("95% interval"), *(len(table.label(system)) for system in table.systems))


def _column_width(table: Table, column: Column) -> int:
    rows = [row for (_, place), row in table.cells.items() if place == column]
    beside = [other for other in table.columns if other[:2] == column[:2]]
    share = -(-(len(_title(column[:2])) - len(GAP) * (len(beside) - 1)) // len(beside))
    return max(share, len(column[2]), len(table.sizes(column)), *(len(interval_text(row)) + 2 for row in rows))


def value_text(row: Row | None) -> str:
    return _number(row, row.value) if row else "-"


def interval_text(row: Row | None) -> str:
    return "-".join(_ends(row)) if row else ""


def _cell(row: Row | None) -> str:
    return f"{value_text(row)} [{', '.join(_ends(row))}]" if row else "-"


def _ends(row: Row) -> list[str]:
    return [_number(row, end) for end in row.ci95]


def _number(row: Row, value: float) -> str:
    if row.metric in DRIFT:
        return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"
    return f"{value:.{next((digits for ending, digits in DECIMALS.items() if ending in row.metric), 1)}f}"

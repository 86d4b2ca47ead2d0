"""Pieces of HTML for the report; everything that comes from data is escaped here."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

from blspkd.evaluation.results import Row
from blspkd.evaluation.scorers import HEALTH, SCORERS, with_parts
from blspkd.reporting.tables import TYPED, Table, interval_text, metric_label, value_text

LOWER_IS_BETTER = frozenset({  # of what no scorer measures
    "input_kl", "response_kl", "response_kl_true", "first_kl", "count_mae", "boundary_mean_ms", "boundary_median_ms",
    "kl_to_base", "changed_top1", "max_state_diff"})
NONE_IS_BEST = frozenset({"count_bias", "boundary_bias_ms"})  # neither more nor less is better


class Document:
    """Sections in order, with a table of contents."""

    def __init__(self, title: str):
        self.title = title
        self._contents: list[str] = []
        self._body = [f"<h1>{escape(title)}</h1>"]

    def section(self, name: str, title: str, *parts: str) -> None:
        """name: its anchor."""
        self._contents.append(f'<li><a href="#{name}">{escape(title)}</a></li>')
        self.add(f'<h2 id="{name}">{escape(title)}</h2>', *parts)

    def add(self, *parts: str) -> None:
        self._body += parts

    def html(self) -> str:
        template = Template(files("blspkd.reporting").joinpath("templates/report.html").read_text(encoding="utf-8"))
        return template.substitute(title=escape(self.title), contents="\n".join(self._contents),
                                   body="\n".join(self._body))


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def heading(text: str) -> str:
    return f"<h3>{escape(text)}</h3>"


def picture(uri: str, what: str, caption: str = "") -> str:
    """what: in place of the picture, for those who cannot see it."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{uri}" alt="{escape(what)}">{below}</figure>'


def folded(summary: str, *parts: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>"


def grid(heads: Sequence[str], lines: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table of plain texts."""
    return _table([f"<th>{escape(head)}</th>" for head in heads],
                  [[f"<td>{escape(cell)}</td>" for cell in line] for line in lines], kind)


def marked_grid(heads: Sequence[str], lines: Sequence[Sequence[tuple[str, str]]], kind: str = "") -> str:
    """A table of (text, class of its cell)."""
    return _table([f"<th>{escape(head)}</th>" for head in heads],
                  [[f'<td class="{mark}">{escape(text)}</td>' if mark else f"<td>{escape(text)}</td>"
                    for text, mark in line] for line in lines], kind)


def measurements(table: Table) -> str:
    """Systems by (metric, set): values with their intervals; the best trained system of each column is bold.

    Where there are several tasks (types of questions, each with its own number of utterances), heads name them too.
    """
    tasks, sets = ({column[place] for column in table.columns} for place in (0, 2))
    heads = ["<th>system</th>"]
    for column in table.columns:
        task, metric, name = column
        lines = [f"{task} {metric_label(metric)} ({table.sizes(column)})" if len(tasks) > 1 else metric_label(metric)]
        heads.append(f"<th>{'<br>'.join(map(escape, lines + [name] * (len(sets) > 1)))}</th>")
    best = {column: _best(table, column) for column in table.columns}
    lines = []
    for system in table.systems:
        cells = [f"<td>{escape(table.label(system))}</td>"]
        for column in table.columns:
            row = table.cells.get((system, column))
            mark = ' class="best"' if row is not None and row == best[column] else ""
            cells.append(f"<td{mark}>{value_text(row)}<small>{interval_text(row)}</small></td>")
        lines.append(cells)
    return _table(heads, lines)


def _best(table: Table, column: tuple[str, str, str]) -> Row | None:
    rows = [row for (system, place), row in table.cells.items() if place == column and _listens(system[0])]
    better = _better(column[1])
    if len(rows) < 2 or better == "neither" or column[0] == "cost":
        return None
    return (min if better == "lower" else max)(rows, key=lambda row: row.value)


def _better(metric: str) -> str:
    scorers = with_parts(SCORERS | HEALTH)
    if metric in scorers:
        return scorers[metric].better
    return "neither" if metric in NONE_IS_BEST else "lower" if metric in LOWER_IS_BETTER else "higher"


def _listens(name: str) -> bool:
    """Whether the system was trained to listen, and does."""
    return not (name in ("text", "chance") or name.startswith("cascade") or name.endswith(TYPED))


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]], kind: str = "") -> str:
    rows = "".join(f"<tr>{''.join(cells)}</tr>" for cells in lines)
    return (f'<div class="scroll"><table class="{kind}"><thead><tr>{"".join(heads)}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>")

"""Which system of a column is the best one: of those that were trained to listen."""

from blspkd.evaluation.changed_answers import CHANGED
from blspkd.evaluation.results import Row
from blspkd.evaluation.scorers import HEALTH, SCORERS, with_parts
from blspkd.reporting.tables import TYPED, Column, Table

LOWER_IS_BETTER = frozenset({  # of what no scorer measures
    "input_kl", "response_kl", "response_kl_true", "first_kl", "nearest_wer", "count_mae", "boundary_mean_ms",
    "boundary_median_ms", "kl_to_base", "changed_top1", "max_state_diff"})
NONE_IS_BEST = frozenset({"count_bias", "boundary_bias_ms", CHANGED})  # neither more nor less is better


def best(table: Table, column: Column) -> Row | None:
    """None where less than two listen, or none is better than others."""
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

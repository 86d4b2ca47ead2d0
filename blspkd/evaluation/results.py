"""`exp/<tag>/results.json`: the one list of measurements that everything printed or plotted comes from."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from blspkd.errors import DataError
from blspkd.files import atomic_write

TYPE = ":"  # in a row's task, before a type of question: qa:who is the part of qa whose instructions begin with "who"
TOKENS = "tokens="  # behind TYPE: qa:tokens=right is the part of qa with as many speech tokens as transcript tokens
DIGITS = 6  # significant digits kept of values and intervals, which may be tiny


@dataclass(frozen=True)
class Row:
    """One measurement; percentages are 0-100."""

    system: str
    set: str
    task: str
    metric: str
    value: float
    ci95: list[float]  # [low, high]
    n: int
    seed: int | None  # of the training
    signature: str


def read_results(path: str | Path) -> list[Row]:
    """Raises DataError for a missing file or a row that is not one."""
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: missing; score first (stage 4)") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); remove it and score again") from None
    if not isinstance(values, list):
        raise DataError(f"{path}: expected a list of rows; remove it and score again")
    return [_row(value, f"{path}: row {number}") for number, value in enumerate(values, 1)]


def write_results(path: str | Path, rows: Iterable[Row]) -> None:
    """One row per line, so that versions of the file can be compared."""
    lines = [json.dumps(dataclasses.asdict(_rounded(row)), ensure_ascii=False) for row in rows]
    with atomic_write(path) as file:
        file.write("[\n" + ",\n".join(lines) + "\n]\n")


def update_results(path: str | Path, new: Iterable[Row], replaces: Callable[[Row], bool]) -> list[Row]:
    """Put `new` in front of the file's rows; old rows that `replaces` marks, or that `new` repeats, leave."""
    new = list(new)
    keys = {_key(row) for row in new}
    old = read_results(path) if Path(path).exists() else []
    rows = new + [row for row in old if not replaces(row) and _key(row) not in keys]
    write_results(path, rows)
    return [_rounded(row) for row in rows]


def whole_tasks(rows: Iterable[Row]) -> list[Row]:
    """Without those of parts of a test set, which have tables of their own."""
    return [row for row in rows if TYPE not in row.task]


def question_types(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Of types of questions: (task, set) -> rows of all types."""
    return _parts(row for row in rows if not is_by_count(row.task))


def count_splits(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Of utterances with the right and with a wrong number of speech tokens: (task, set) -> rows of both."""
    return _parts(row for row in rows if is_by_count(row.task))


def is_by_count(task: str) -> bool:
    """Whether this is a task's part with the right, or a wrong, number of speech tokens."""
    return task.partition(TYPE)[2].startswith(TOKENS)


def _parts(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        task, is_part, _ = row.task.partition(TYPE)
        if is_part:
            found.setdefault((task, row.set), []).append(row)
    return found


def _key(row: Row) -> tuple:
    return row.system, row.set, row.task, row.metric, row.seed


def _rounded(row: Row) -> Row:
    value, *ends = (float(f"{number:.{DIGITS}g}") for number in (row.value, *row.ci95))
    return dataclasses.replace(row, value=value, ci95=ends)


def _row(value: object, where: str) -> Row:
    names = [field.name for field in dataclasses.fields(Row)]
    if not isinstance(value, dict) or sorted(value) != sorted(names):
        raise DataError(f"{where}: expected exactly the keys {', '.join(names)}; correct the row or remove it")
    row = Row(**value)
    texts = (row.system, row.set, row.task, row.metric, row.signature)
    interval = row.ci95 if isinstance(row.ci95, list) and len(row.ci95) == 2 else [None]
    if not all(isinstance(text, str) for text in texts) or not all(map(_is_number, (row.value, row.n, *interval))):
        raise DataError(f"{where}: expected text, numbers and ci95 as [low, high]; correct the row or remove it")
    return row


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

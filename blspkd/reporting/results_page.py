"""The end of stage 4: what is printed on the screen, and the recipe's RESULTS.md."""

import datetime
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blspkd.errors import DataError
from blspkd.evaluation.results import Row, count_splits, question_types
from blspkd.evaluation.scorers import SCORERS, with_parts
from blspkd.files import atomic_write
from blspkd.reporting import tables
from blspkd.reporting.pages import render
from blspkd.reporting.tables import duration


@dataclass(frozen=True)
class StageTime:
    """A finished stage; times in seconds, memory in MiB (None: not measured)."""

    stage: str
    name: str
    seconds: float
    peak_mib: float | None
    date: str


@dataclass(frozen=True)
class Page:
    """All that a page shows."""

    rows: list[Row]
    examples: list[dict]  # as scoring.choose_examples makes them
    stage_times: list[StageTime]
    comparison: str = ""  # of stage 5, as Markdown


def read_stage_times(path: str | Path | None) -> list[StageTime]:
    """Lines `stage<TAB>name<TAB>seconds<TAB>peak_mib<TAB>date`; of a stage that ran several times, the last."""
    if path is None or not Path(path).exists():
        return []
    found: dict[str, StageTime] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split("\t")
        if not line.strip() or fields[0] == "stage":
            continue
        try:
            stage, name, seconds, peak, date = fields
            found[stage] = StageTime(stage, name, float(seconds), float(peak) if peak.strip(" -") else None, date)
        except ValueError:
            raise DataError(f"{path}:{number}: expected stage, name, seconds, peak_mib and date between tabs, found "
                            f"{line!r}; remove the line") from None
    return sorted(found.values(), key=lambda time: (len(time.stage), time.stage))


def read_examples(exp_dir: str | Path) -> list[dict]:
    path = Path(exp_dir) / "examples.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); remove it and score again") from None


def screen(page: Page) -> str:
    """The tables, stage times and examples, in at most 100 columns."""
    blocks = [tables.screen(page.rows)]
    bleu = sorted({row.signature for row in page.rows if row.metric == "bleu" and row.signature})
    if bleu:
        blocks[0] += "\nBLEU: sacreBLEU " + ", ".join(bleu)
    if page.stage_times:
        lines = [f"stage {time.stage:<3} {time.name:<16} {duration(time.seconds):>10}"
                 + (f"   peak memory {time.peak_mib:,.0f} MiB" if time.peak_mib is not None else "")
                 for time in page.stage_times]
        blocks.append("\n".join(lines))
    for number, example in enumerate(page.examples, 1):
        pairs = [("said", example["transcript"]), ("instruction", example["instruction"]),
                 ("reference", example["reference"])]
        pairs += [(f"{tables.system_label(system)} answers", answer) for system, answer in example["answers"].items()]
        width = max(len(what) for what, _ in pairs)
        lines = [f"example {number}: {example['task']}, {example['set']}, utterance {example['utt_id']}"]
        for what, value in pairs:
            lead = f"  {what.ljust(width)}  "
            lines.append(textwrap.fill(" ".join(value.split()) or "(nothing)", tables.WIDTH, initial_indent=lead,
                                       subsequent_indent=" " * len(lead)))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def write_page(path: str | Path, page: Page, environment: Sequence[tuple[str, str]], commit: str, command: str,
               preamble: str = "") -> None:
    """Write RESULTS.md: what it is (`preamble`), the tables, how they came about."""
    seeds = sorted({row.seed for row in page.rows if row.seed is not None})
    date = max((time.date for time in page.stage_times), default=datetime.date.today().isoformat())
    parts = with_parts(SCORERS).keys() - SCORERS  # their metrics say the same
    signatures = dict.fromkeys((tables.metric_label(row.metric), row.signature) for row in page.rows
                               if row.signature and row.metric not in parts)
    text = render("RESULTS.md", page=page, preamble=preamble, command=command, signatures=list(signatures),
                  tasks=tables.markdown_tasks(page.rows), types=tables.markdown_parts(question_types(page.rows)),
                  counts=tables.markdown_parts(count_splits(page.rows)),
                  others=tables.markdown_others(page.rows), errors=tables.markdown_errors(page.rows),
                  health=tables.markdown_health(page.rows),
                  facts=[("date", date), *environment, ("commit", commit),
                         ("training seed", ", ".join(map(str, seeds)) or "unknown")])
    with atomic_write(path) as file:
        file.write(text + "\n")

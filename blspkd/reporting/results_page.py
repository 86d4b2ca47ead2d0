"""The end of stage 4: what is printed on the screen, and the recipe's RESULTS.md."""

import datetime
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blspkd.errors import DataError
from blspkd.evaluation.results import Row, whole_tasks
from blspkd.evaluation.scorers import SCORERS, with_parts
from blspkd.files import atomic_write
from blspkd.reporting import tables

INTERVALS = ("Values are percentages unless their name says otherwise (KL is in nats); in brackets the 95% bootstrap "
             "interval over utterances. The system *text* has the transcript typed in (the upper bound), *chance* "
             "hears another utterance of the set while the reference stays.")


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
    for metric, scorer in SCORERS.items():
        signatures = sorted({row.signature for row in page.rows if row.metric == metric and row.signature})
        if scorer.cited and signatures:
            blocks[0] += f"\n{scorer.label}: {scorer.cited} " + ", ".join(signatures)
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
    facts = [("date", date), *environment, ("commit", commit),
             ("training seed", ", ".join(map(str, seeds)) or "unknown")]
    sections = [
        "" if preamble.lstrip().startswith("# ") else "# Results",
        preamble.strip(),
        "## Tasks", INTERVALS, _task_tables(page.rows),
        *_section("## By type of question (the first word of the instruction)", tables.markdown_types(page.rows)),
        *_section("## Comparison", page.comparison),
        *_section("## Token-count accuracy and other measurements", tables.markdown_others(page.rows)),
        *_section("## Kinds of errors (percent)", tables.markdown_errors(page.rows)),
        *_section("## Output health (percent)", tables.markdown_health(page.rows)),
        *_section("## Time and memory", _times(page.stage_times)),
        *_section("## Examples", _examples(page.examples)),
        "## Environment",
        "\n".join(f"- {what}: {value}" for what, value in facts),
        f"Written by the last stage of\n\n```\n{command}\n```",
        *_section("## Signatures", _signatures(page.rows)),
    ]
    with atomic_write(path) as file:
        file.write("\n\n".join(section for section in sections if section) + "\n")


def duration(seconds: float) -> str:
    """75.2 -> 1 min 15 s."""
    total = round(seconds)
    hours, minutes = divmod(total // 60, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {total % 60:02d} s" if minutes else f"{total} s"


def _section(title: str, body: str) -> list[str]:
    return [title, body] if body else []


def _task_tables(rows: Sequence[Row]) -> str:
    """One table per task: next to each other they would be too wide to read."""
    rows = whole_tasks(rows)
    tasks = dict.fromkeys(row.task for row in rows if row.metric in SCORERS)
    found = [tables.markdown(tables.arrange([row for row in rows if row.task == task], SCORERS))
             for task in tasks]
    return "\n\n".join(found) or "Nothing was scored yet."


def _times(stage_times: Sequence[StageTime]) -> str:
    if not stage_times:
        return ""
    lines = [[f"{time.stage} {time.name}", duration(time.seconds),
              "-" if time.peak_mib is None else f"{time.peak_mib:,.0f}", time.date] for time in stage_times]
    lines.append(["all", duration(sum(time.seconds for time in stage_times)), "", ""])
    return tables.markdown_table(["stage", "wall time", "peak MiB", "finished"], lines)


def _examples(examples: Sequence[dict]) -> str:
    if not examples:
        return ""
    blocks = ["Drawn by the seed, not by how well they went."]
    for example in examples:
        task, set_name, utt_id = (tables.escape(example[key]) for key in ("task", "set", "utt_id"))
        lines = [f"**{task}**, {set_name}, utterance {utt_id}", "",
                 f"- said: {tables.escape(example['transcript'])}",
                 f"- instruction: {tables.escape(example['instruction'])}",
                 f"- reference: {tables.escape(example['reference'])}"]
        lines += [f"- {tables.system_label(system)} answers: {tables.escape(answer) or '(nothing)'}"
                  for system, answer in example["answers"].items()]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _signatures(rows: Sequence[Row]) -> str:
    parts = with_parts(SCORERS).keys() - SCORERS  # their metrics say the same
    pairs = dict.fromkeys((tables.metric_label(row.metric), row.signature) for row in rows
                          if row.signature and row.metric not in parts)
    return "\n".join(f"- {metric}: `{signature}`" for metric, signature in pairs)

"""How benchmark rows are shown: as a table on the screen and as a named section of RESULTS.md."""

import importlib.metadata
import re
from pathlib import Path

from measure import Row

from blspkd.files import atomic_write
from blspkd.reporting.environment import describe_environment

RESULTS = Path(__file__).parent / "RESULTS.md"
TITLE = "# Benchmarks\n\nWritten by the commands in this folder; each section names the machine it ran on.\n"
HEADER = ("part", "case", "peer", "times faster", "ours ms", "peer ms", "ours MiB", "peer MiB", "x floor", "max diff")


def environment() -> list[str]:
    """Machine and versions, one per line."""
    peers = []
    for package in ("torch-cif", "liger-kernel"):
        try:
            peers.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            peers.append((package, "not installed"))
    return [f"{what}: {value}" for what, value in [*describe_environment(), *peers]]


def cells(row: Row) -> list[str]:
    def number(value: float | None, form: str, scale: float = 1) -> str:
        return "" if value is None else format(value * scale, form)

    spread = f" ({row.spread[0]:.2f}-{row.spread[1]:.2f})" if row.spread else ""
    return [row.part, row.case, row.peer, number(row.speedup, ".2f") + spread, number(row.ours_s, ".2f", 1e3),
            number(row.peer_s, ".2f", 1e3), number(row.ours_peak_mib, ".1f"), number(row.peer_peak_mib, ".1f"),
            number(row.floor, ".2f"), number(row.max_abs_diff, ".1e")]


def screen(rows: list[Row]) -> str:
    """Aligned columns; the notes under them, each once."""
    table = [HEADER, *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    notes = [f"{row.part} {row.case} {row.peer}: {row.note}".replace("  ", " ") for row in rows if row.note]
    return "\n".join([*lines, "", *notes])


def markdown(rows: list[Row]) -> str:
    """The same as a Markdown table, with the notes as its last column."""
    table = [[*HEADER, "note"], ["---"] * (len(HEADER) + 1), *([*cells(row), row.note] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in table)


def write_section(name: str, text: str, path: Path = RESULTS) -> None:
    """Put `text` under the heading `## name` of `path`, in place of what stood there; other sections stay."""
    before = path.read_text(encoding="utf-8") if path.exists() else TITLE
    head, *parts = re.split(r"(?m)^## ", before)
    sections = {part.partition("\n")[0]: part.partition("\n")[2].strip("\n") for part in parts}
    sections[name] = text.strip("\n")
    with atomic_write(path) as file:
        file.write(head.rstrip("\n") + "\n" + "".join(f"\n## {key}\n\n{body}\n" for key, body in sections.items()))

"""The benchmark of scale, with a few hundred utterances: it runs, and measures what it says."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "tools" / "benchmarks"


def scale(*options: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, FOLDER / "scale.py", *options], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> dict[tuple, dict]:
    folder = tmp_path_factory.mktemp("scale")
    done = scale("--quick", "--utterances", "300", "--folder", folder, "--json", folder / "rows.json", "--markdown",
                 folder / "RESULTS.md")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["RESULTS.md", "rows.json"]
    assert "## scale" in (folder / "RESULTS.md").read_text()
    found = json.loads((folder / "rows.json").read_text())
    assert all(done.stdout.count(row["what"]) for row in found)
    assert done.stdout.index("extrapolated, not measured") > done.stdout.index("a checkpoint: size")
    return {(row["part"], row["what"], row["utterances"]): row for row in found}


def test_starts_are_measured_packed_and_not(rows):
    assert 0 < rows["start", "packed: to the first batch", 300]["value"] < 60
    assert 0 < rows["start", "data directory: to the first batch", 300]["value"] < 60
    assert 0.5 < rows["start", "size of the packed directory", 300]["value"] < 3


def test_stages_and_steps_are_measured(rows):
    for verb in ("durations", "validate", "stats", "filter"):
        assert 10 < rows["stage 1", f"{verb}: most memory", 300]["value"] < 300  # of the verb, not of the benchmark
        assert rows["stage 1", f"{verb}: its rate, with the start", 300]["value"] > 10
    by_part = {what: row["value"] for (part, what, _), row in rows.items() if part in ("stage 2", "training")}
    assert all(value > 0 for what, value in by_part.items() if "most" in what or "checkpoint" in what)
    for rank in (0, 1):
        assert by_part[f"forward a step, rank {rank}"] > 0 and by_part[f"backward a step, rank {rank}"] > 0
    assert 0.5 < by_part["a checkpoint: size"] < 100


def test_what_is_extrapolated_says_so(rows):
    far = [row for (_, _, number), row in rows.items() if number == 100_000_000]
    assert far and not any(row["measured"] for row in far)
    assert all(row["measured"] for (_, _, number), row in rows.items() if number != 100_000_000)
    assert {row["part"] for row in far} == {"stage 2"}


def test_a_straight_line_through_the_two_largest(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    module = importlib.import_module("scale_row")
    found = module.extrapolated([module.Row("start", "x", value, "s", number, grows=True)
                                 for number, value in ((10, 7.0), (2_000_000, 5.0), (1_000_000, 3.0))]
                                + [module.Row("start", "y", 1.0, "s", 10, grows=True),
                                   module.Row("start", "z", 1.0, "s", 5)])
    assert [(row.what, row.value, row.measured) for row in found] == [("x", pytest.approx(3 + 2 * 99), False)]


def test_a_part_that_is_not_there_is_named():
    done = scale("--parts", "start nowhere")
    assert done.returncode == 2 and "there is no nowhere" in done.stderr


@pytest.mark.parametrize("words, message", [
    (["--utterances", "10k"], "--utterances: '10k' are no numbers above 0"),
    (["--utterances", "10 0"], "--utterances: '10 0' are no numbers above 0"),
    (["--folder", "/nowhere"], "--folder: /nowhere is no folder")])
def test_mistakes_are_told_before_anything_is_measured(words, message):
    done = scale(*words)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr

"""The benchmark of the training step runs, finds both steps equal, and writes what it measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("step")
    command = [sys.executable, "tools/benchmarks/step.py", "--device", "cpu", "--quick",
               "--json", str(folder / "rows.json"), "--markdown", str(folder / "RESULTS.md")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "rows.json").read_text()), (folder / "RESULTS.md").read_text()


def test_both_steps_are_the_same_work(written):
    rows, _ = written
    assert rows and all(row["max_abs_diff"] <= 1e-4 for row in rows)


def test_rows_hold_speed_memory_useful_positions_and_shares(written):
    rows, markdown = written
    first = rows[0]
    assert {"part", "case", "peer", "ours_s", "peer_s", "speedup", "ours_peak_mib", "peer_peak_mib"} <= first.keys()
    assert first["part"] == "step" and first["peer"] == "authors-structure"
    assert first["ours_utterances_per_s"] == pytest.approx(first["utterances"] / first["ours_s"])
    assert 0 < first["peer_useful"] <= first["ours_useful"] <= 1
    for side in ("ours_parts", "peer_parts"):
        assert {"encoder", "adapter", "student", "teacher", "kd", "backward", "optimiser"} <= first[side].keys()
        assert sum(first[side].values()) == pytest.approx(1, abs=0.02)
    assert "## step, cpu" in markdown and "authors-structure, our CIF" in markdown

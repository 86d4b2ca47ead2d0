"""The benchmark of a training's start, with a few hundred utterances: it runs, and measures what it says."""

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "tools" / "benchmarks"


def test_packed_and_unpacked_starts_are_measured(tmp_path):
    done = subprocess.run([sys.executable, FOLDER / "packed.py", "--utterances", "300", "--folder", tmp_path, "--json",
                           tmp_path / "rows.json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row["what"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    assert len(rows) == len(done.stdout.splitlines()) - 1 == 11
    assert all(row["utterances"] == 300 for row in rows.values())
    assert 0 < rows["packed: to the first batch"]["value"] < 60
    assert 0.5 < rows["size of the packed directory"]["value"] < 3
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]

"""The benchmark command at tiny sizes: it runs, ours equals its peers, and its files have the promised form."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "tools" / "benchmarks"
KEYS = {"part", "case", "peer", "ours_s", "peer_s", "speedup", "ours_peak_mib", "peer_peak_mib", "max_abs_diff"}
TOLERANCES = {"torch-cif": 1e-2}  # it scales to n + 1e-4


def core(*arguments: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, FOLDER / "core.py", "--device", "cpu", *arguments], capture_output=True,
                          text=True, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("core")
    (folder / "RESULTS.md").write_text("# Benchmarks\n\n## step\n\nkeep me\n\n## core\n\nold\n")
    done = core("--quick", "--parts", "cif,kd", "--turns", "2", "--json", folder / "rows.json", "--markdown",
                folder / "RESULTS.md")
    assert done.returncode == 0, done.stderr
    assert "times faster" in done.stdout and "processor:" in done.stdout and "[2/2] kd" in done.stderr
    return folder


def test_the_json_file_has_the_promised_keys_and_peers(finished):
    rows = json.loads((finished / "rows.json").read_text())
    assert all(row.keys() >= KEYS for row in rows)
    peers = {part: {row["peer"] for row in rows if row["part"] == part} for part in ("cif", "kd")}
    assert peers["cif"] == {"torch-cif", "funasr-cif_v1", "authors-loop", "plain"}
    assert peers["kd"] >= {"liger", "plain"}
    timed = [row for row in rows if row["speedup"] is not None]
    assert timed and all(math.isfinite(row["speedup"]) and row["ours_peak_mib"] >= 0 for row in timed)


def test_ours_equals_its_peers(finished):
    compared = [row for row in json.loads((finished / "rows.json").read_text()) if row["max_abs_diff"] is not None]
    assert compared
    for row in compared:
        assert row["max_abs_diff"] < TOLERANCES.get(row["peer"], 1e-4), row


def test_the_page_has_the_table_and_keeps_other_sections(finished):
    page = (finished / "RESULTS.md").read_text()
    assert page.count("## core") == 1 and "old" not in page and "keep me" in page
    assert "| cif |" in page and "- torch:" in page and str(finished) not in page


def test_an_unknown_part_is_refused_with_the_list():
    done = core("--parts", "cif,nonsense")
    assert done.returncode == 2 and "nonsense: not one of cif, kd, plora, batching, encoder" in done.stderr


def test_a_peer_that_is_not_installed_is_reported_and_left_out(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setitem(sys.modules, "torch_cif", None)
    spec = importlib.util.spec_from_file_location("cif_part", FOLDER / "cif_part.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    functions, missing = module.contestants()
    assert missing == ["torch-cif"] and "torch-cif" not in functions and "ours" in functions

"""The benchmark command at tiny sizes: it runs, ours equals its peers, and its files have the promised form."""

import importlib
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


@pytest.fixture
def part(monkeypatch):
    """Import a file of the benchmarks."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def test_a_peer_that_is_not_installed_is_reported_and_left_out(monkeypatch, part):
    monkeypatch.setitem(sys.modules, "torch_cif", None)
    functions, missing = part("cif_part").contestants()
    assert missing == ["torch-cif"] and "torch-cif" not in functions and "ours" in functions


def test_tokens_that_differ_from_the_plain_ones_are_called_wrong(monkeypatch, part):
    cif, found = part("cif_part"), {}
    right = cif.ours
    monkeypatch.setattr(part("measure"), "most_turns", 2)
    for factor in (1.0, 1.01):
        monkeypatch.setattr(cif, "ours", lambda *inputs, factor=factor: right(*inputs) * factor)
        functions = {"ours": right, "plain": cif.peers.dense_cif, "authors-loop": cif.peers.frame_loop_cif}
        found[factor] = {row.peer: row for row in cif.compare((2, 60, 16), 12, 1, "cpu", functions)}
    assert not any(row.wrong for row in found[1.0].values())
    assert found[1.01]["plain"].wrong and "WRONG" in found[1.01]["plain"].note


def test_a_slope_that_differs_from_the_plain_one_is_called_wrong_however_small_slopes_are(monkeypatch, part):
    kd = part("kd_part")
    monkeypatch.setattr(part("measure"), "most_turns", 2)

    def steeper(*inputs):
        loss = kd.ours(*inputs)
        return 1.01 * loss - 0.01 * loss.detach()  # the same value

    for loss, wrong in ((kd.ours, False), (steeper, True)):
        rows = list(kd.compare(64, 16, 500, "cpu", {"ours": loss, "plain": kd.peers.plain_kl}))
        compared = [row for row in rows if row.peer == "plain"]
        assert compared and all(row.wrong == wrong == ("WRONG" in row.note) for row in compared)


def test_something_wrong_ends_with_status_1_after_the_table(monkeypatch, part, tmp_path, capsys):
    core_module, row = part("core"), part("measure").Row
    monkeypatch.setattr(core_module, "run_part", lambda *_: [row("cif", "1x2x3", "plain", note="WRONG: x", wrong=True)])
    with pytest.raises(SystemExit) as end:
        core_module.main(["--device", "cpu", "--parts", "cif", "--json", str(tmp_path / "rows.json")])
    shown = capsys.readouterr()
    assert end.value.code == 1 and "WRONG: x" in shown.out and "cif 1x2x3 plain" in shown.err
    assert (tmp_path / "rows.json").exists()

"""Stage markers: configurations with a base, and the time that killed attempts took."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from blspkd.config import TaskConfig
from blspkd.model_files import WHOLE_FILE

MARKER = Path(__file__).parents[2] / "egs/TEMPLATE/blspkd1/utils/stage_marker.py"


def call(folder, *words):
    environment = {**os.environ, "PYTHONPATH": str(MARKER.parents[4])}  # as path.sh sets it
    return subprocess.run([sys.executable, str(MARKER), *words], cwd=folder, capture_output=True, text=True,
                          env=environment)


def check(folder, *words):
    return call(folder, "check", "m.json", "--stage", "3 train", "--output", "out", "--redo", *words)


def finish(folder, seconds="10"):
    (folder / "out").touch()
    assert call(folder, "finish", "--seconds", seconds, "--peak_file", "m.json.peak", "m.json").returncode == 0
    return json.loads((folder / "m.json").read_text())


def test_a_change_in_the_base_of_a_configuration_is_noticed(tmp_path):
    for quote in ("", '"', "'"):
        (tmp_path / "a.yaml").write_text(f"base: {quote}b.yaml{quote}\nsystem: a\n")
        (tmp_path / "b.yaml").write_text("steps: 1\n")
        assert check(tmp_path, "--text", "a.yaml").returncode == 10
        finish(tmp_path)
        assert check(tmp_path, "--text", "a.yaml").returncode == 0
        (tmp_path / "b.yaml").write_text("steps: 2\n")
        again = check(tmp_path, "--text", "a.yaml")
        assert again.returncode == 10 and "now: steps: 2" in again.stdout


def test_what_only_scoring_reads_decodes_nothing_again(tmp_path):
    """blspkd.sh names those keys of a task; a new one must be among them."""
    stages = (MARKER.parents[1] / "blspkd.sh").read_text()
    step = re.search(r'decode_\$\{name\}\.json.*?--ignore "([^"]*)"', stages, re.DOTALL)
    assert {field.name for field in fields(TaskConfig)} - {"instruction"} <= set(step[1].split())
    for key, reruns in (("by_first_word: true", False), ("instruction: Do.", True)):
        (tmp_path / "decode.yaml").write_text("tasks:\n  qa:\n    metrics: [wer]\n")
        words = "--text", "decode.yaml", "--ignore", step[1]
        check(tmp_path, *words)
        finish(tmp_path)
        (tmp_path / "decode.yaml").write_text(f"tasks:\n  qa:\n    metrics: [exact_match]\n    {key}  # why\n")
        assert check(tmp_path, *words).returncode == (10 if reruns else 0)


def test_bases_that_lead_back_or_are_missing_end(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    assert check(tmp_path, "--text", "a.yaml").returncode == 10
    (tmp_path / "b.yaml").unlink()
    assert check(tmp_path, "--text", "a.yaml").returncode == 10
    assert "(not there)" in json.loads((tmp_path / "m.json").read_text())["made_from"]["a.yaml"]


def test_the_time_of_a_killed_attempt_counts(tmp_path):
    assert check(tmp_path).returncode == 10
    peaks = tmp_path / "m.json.peak"
    peaks.write_text("700\n")
    os.utime(peaks, (time.time() + 90, time.time() + 90))  # it was at work for 90 s, then killed
    assert check(tmp_path).returncode == 10
    marker = finish(tmp_path)
    assert 98 <= marker["seconds"] <= 102 and marker["peak_mib"] == 700


def test_the_time_of_an_attempt_with_other_options_does_not_count(tmp_path):
    assert check(tmp_path, "--value", "a=1").returncode == 10
    peaks = tmp_path / "m.json.peak"
    peaks.write_text("700\n")
    os.utime(peaks, (time.time() + 90, time.time() + 90))
    assert check(tmp_path, "--value", "a=2").returncode == 10
    assert not peaks.exists()
    assert finish(tmp_path)["seconds"] == 10


def test_a_model_is_known_by_every_tensor_and_not_by_how_long_it_took(tmp_path):
    def status():
        return check(tmp_path, "--model", "llm", "model").returncode

    weights = tmp_path / "model/model.safetensors"
    weights.parent.mkdir()
    random = np.random.default_rng(0)
    save_file({name: random.standard_normal((1024, 6000), dtype=np.float32) for name in "abc"}, weights)
    assert weights.stat().st_size > WHOLE_FILE and status() == 10
    finish(tmp_path)
    (weights.parent / "training.json").write_text('{"results": {"seconds": 3.1}}')
    assert status() == 0
    with open(weights, "r+b") as file:
        file.seek(20_000_000)  # in a row of a
        file.write(bytes(496))
    assert status() == 10


def test_it_waits_for_no_heavy_package(tmp_path):
    code = f"import runpy, sys; runpy.run_path({str(MARKER)!r}); sys.exit(bool({{'numpy', 'yaml'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(MARKER.parents[4])},
                          cwd=tmp_path, check=False).returncode == 0

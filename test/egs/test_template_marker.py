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
import pytest
from safetensors.numpy import save_file

from blspkd.evaluation_config import TaskConfig
from blspkd.model_files import WHOLE_FILE
from blspkd.training import run

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
    assert {field.name for field in fields(TaskConfig)} - {"instruction", "sets", "tags"} <= set(step[1].split())
    assert {"by_count", "means", "typed", "num_bootstrap", "num_examples"} <= set(step[1].split())
    for key, reruns in (("by_first_word: true", False), ("instruction: Do.", True), ("tags: {style: digits}", True),
                        ("sets: [a]", True)):
        (tmp_path / "decode.yaml").write_text("tasks:\n  qa:\n    metrics: [wer]\n")
        words = "--text", "decode.yaml", "--ignore", step[1]
        check(tmp_path, *words)
        finish(tmp_path)
        (tmp_path / "decode.yaml").write_text(f"tasks:\n  qa:\n    metrics: [exact_match]\n    {key}  # why\n")
        assert check(tmp_path, *words).returncode == (10 if reruns else 0)


@pytest.mark.parametrize(("config", "arguments"), [
    ("training:\n  init_from: first/model  # why\n", ""), ("training: {init_from: 'first/model', seed: 1}\n", ""),
    ("seed: 1\n", "--seed 2 --init_from first/model"), ("seed: 1\n", "--training.init_from=first/model --seed 2"),
    ("base: other.yaml\n", "")])
def test_a_change_of_a_model_that_the_configuration_names_is_noticed(tmp_path, config, arguments):
    (tmp_path / "first/model").mkdir(parents=True)
    (tmp_path / "train.yaml").write_text(config)
    (tmp_path / "other.yaml").write_text("training: {init_from: first/model}\n")
    words = "--text", "train.yaml", "--value", f"train_args={arguments}", "--model_in", "init_from"
    for weights in ("1", "2"):
        (tmp_path / "first/model/adapter.safetensors").write_text(weights)
        ran = check(tmp_path, *words)
        assert ran.returncode == 10
        assert ("init_from first/model: its contents changed" in ran.stdout) == (weights == "2")
        finish(tmp_path)
        assert check(tmp_path, *words).returncode == 0


def test_a_change_of_a_file_of_weights_that_the_configuration_names_is_noticed(tmp_path):
    (tmp_path / "train.yaml").write_text("training: {init_ctc_head: head.safetensors}\n")
    for weights in ("1", "2"):
        (tmp_path / "head.safetensors").write_text(weights)
        ran = check(tmp_path, "--text", "train.yaml", "--model_in", "init_ctc_head")
        assert ran.returncode == 10
        assert ("init_ctc_head head.safetensors: its contents changed" in ran.stdout) == (weights == "2")
        finish(tmp_path)
    assert "--model_in init_ctc_head" in (MARKER.parents[1] / "blspkd.sh").read_text()


def test_no_model_is_looked_for_where_none_is_named(tmp_path):
    (tmp_path / "train.yaml").write_text('training:\n  init_from:\n  model: ""\n  init_from: ""\n')
    check(tmp_path, "--text", "train.yaml", "--model_in", "init_from")
    assert list(json.loads((tmp_path / "m.json").read_text())["made_from"]) == ["train.yaml"]
@pytest.fixture(scope="module")
def train_step():
    """What blspkd.sh says of stage 3's keys; --redo is the tests' own."""
    step = re.search(r"/train\.json.*?--remedy", (MARKER.parents[1] / "blspkd.sh").read_text(), re.DOTALL)[0]
    free, unfinished = (re.search(rf'--{name} ("[^"]*"|\S+)', step)[1].strip('"')
                        for name in ("ignore", "ignore_unfinished"))
    return {"--ignore": free, "--ignore_unfinished": unfinished}


def test_stage_3_ignores_what_training_itself_lets_change(train_step):
    keys = {key.rpartition(".")[2] for key in run._FREE_KEYS}
    assert keys == {key for names in train_step.values() for key in names.split()}


@pytest.mark.parametrize("before, now, same", [
    ("--num_workers 2 --seed 1", "--seed 1", True),
    ("", "--data.num_workers=2 --cache_dir 'my cache'", True),
    ("--seed 1", "--seed 1 --log_steps 7", True),
    ("--seed 1", "--seed 2", False),
    ("--num_workers 2", "--num_workers 2 --seed 1", False),
])
def test_options_that_change_no_result_train_nothing_again(tmp_path, train_step, before, now, same):
    keys = [word for pair in train_step.items() for word in pair]
    assert check(tmp_path, *keys, f"--words=train_args={before}").returncode == 10
    finish(tmp_path)
    again = check(tmp_path, *keys, f"--words=train_args={now}")
    assert again.returncode == (0 if same else 10) and ("train_args" in again.stdout) != same


@pytest.mark.parametrize("place", ["option", "file"])
def test_an_unfinished_training_may_go_on_with_another_accumulation_and_a_finished_one_may_not(
        tmp_path, train_step, place):
    """Then training itself compares ranks x accumulation (training/run.py)."""
    def status(accumulation):
        (tmp_path / "train.yaml").write_text("training:\n" + f"  gradient_accumulation: {accumulation}\n"
                                             * (place == "file"))
        option = f"--gradient_accumulation {accumulation}" * (place == "option")
        return call(tmp_path, "check", "m.json", "--stage", "3 train", "--output", "out", "--partial", "part",
                    "--text", "train.yaml", f"--words=train_args={option}",
                    *(word for pair in train_step.items() for word in pair))

    assert status(4).returncode == 10
    (tmp_path / "part").touch()
    assert status(2).returncode == 10
    finish(tmp_path)
    assert status(2).returncode == 0
    again = status(4)
    assert again.returncode == 1 and "gradient_accumulation" in again.stderr


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
    code = (f"import runpy, sys; sys.path.insert(0, {str(MARKER.parent)!r}); runpy.run_path({str(MARKER)!r}); "
            "sys.exit(bool({'numpy', 'yaml'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(MARKER.parents[4])},
                          cwd=tmp_path, check=False).returncode == 0


@pytest.fixture
def recordings(tmp_path):
    """A data directory of three recordings: two files, and an entry of an archive, beside a command."""
    for name in ("a.wav", "b c.wav", "d.ark"):
        (tmp_path / name).write_bytes(b"before")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/wav.scp").write_text("a a.wav\nb b c.wav\nd d.ark:2\ne touch ran |\n")
    assert check(tmp_path, "--data", "data", "wav.scp").returncode == 10
    finish(tmp_path)
    return tmp_path


def test_recordings_that_did_not_change_are_noticed_as_such(recordings):
    assert check(recordings, "--data", "data", "wav.scp").returncode == 0
    assert not (recordings / "ran").exists()


@pytest.mark.parametrize(("file", "told"), [("b c.wav", "1 of 4 recordings changed: b (b c.wav)"),
                                            ("d.ark", "1 of 4 recordings changed: d (d.ark:2)")])
@pytest.mark.parametrize("change", ["size", "date", "gone"])
def test_a_recording_that_changed_under_its_path_is_noticed(recordings, file, told, change):
    path = recordings / file
    if change == "size":
        before = path.stat()
        path.write_bytes(b"afterwards")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "date":
        os.utime(path, ns=(0, path.stat().st_mtime_ns - 1000))
    else:
        path.unlink()
    again = check(recordings, "--data", "data", "wav.scp")
    assert again.returncode == 10 and f"audio of data/wav.scp: {told}" in again.stdout


def test_what_was_made_from_other_recordings_is_not_reused(recordings):
    (recordings / "a.wav").write_bytes(b"afterwards")
    again = call(recordings, "check", "m.json", "--stage", "3 train", "--output", "out", "--data", "data", "wav.scp",
                 "--remedy", "Remove out.")
    assert again.returncode == 1 and "1 of 4 recordings changed: a (a.wav)" in again.stderr, again.stderr


def test_only_a_few_of_many_changed_recordings_are_named(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/wav.scp").write_text("".join(f"r{number} a.wav\n" for number in range(9)))
    assert check(tmp_path, "--data", "data", "wav.scp").returncode == 10
    finish(tmp_path)
    (tmp_path / "a.wav").touch()
    told = check(tmp_path, "--data", "data", "wav.scp").stdout
    assert "9 of 9 recordings changed: r0 (a.wav), r1 (a.wav), r2 (a.wav) and 6 more" in told


def test_another_wav_scp_is_told_once(recordings):
    (recordings / "data/wav.scp").write_text("a a.wav\n")
    told = check(recordings, "--data", "data", "wav.scp").stdout
    assert "data/wav.scp: its contents changed" in told and "audio of" not in told


def test_a_marker_that_knows_nothing_of_recordings_learns_of_them(recordings):
    """Versions before 2.1 recorded wav.scp alone."""
    marker = json.loads((recordings / "m.json").read_text())
    del marker["made_from"]["audio of data/wav.scp"]
    (recordings / "m.json").write_text(json.dumps(marker))
    assert check(recordings, "--data", "data", "wav.scp").returncode == 0
    (recordings / "a.wav").write_bytes(b"afterwards")
    assert check(recordings, "--data", "data", "wav.scp").returncode == 10


def test_a_million_recordings_take_seconds(tmp_path):
    """A tenth of them, in a tenth of the time."""
    (tmp_path / "data").mkdir()
    (tmp_path / "a.wav").touch()
    (tmp_path / "data/wav.scp").write_text("".join(f"r{number:06d} a.wav\n" for number in range(100_000)))
    before = os.times()
    assert check(tmp_path, "--data", "data", "wav.scp").returncode == 10
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 3
    assert (tmp_path / "m.json").stat().st_size < 1_000_000

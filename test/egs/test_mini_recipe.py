"""The mini recipe as a user runs it, on a tiny budget: run.sh from stage 1 to 4, again, and killed in the middle."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

REPOSITORY = Path(__file__).parents[2]
RECIPE = REPOSITORY / "egs" / "mini" / "blspkd1"
SETS = ("train", "valid", "test_heard", "test_unheard", "test_hard")
TASKS = ("translate", "qa", "repeat", "initials")
SMALL = [
    "--local_data_opts", "--num_train 60 --num_valid 12 --num_test 6 --num_lm 600 --base_model_opts "
    "'--pieces 300 --llm_steps 12 --recogniser_steps 8 --llm_args --eval_rows=20 "
    "--recogniser_args --eval_utterances=4'",
    "--continuation_args", "--part_size 8 --max_new_tokens 12",
    "--train_args", "--max_steps 12 --save_steps 3 --warmup_steps 2 --batch_utterances 8 --num_workers 0",
    "--inference_args", "--max_new_tokens 12 --num_bootstrap 50",
]


def make_recipe(folder: Path) -> Path:
    """A copy of the recipe that shares the template's scripts, with nothing made yet."""
    folder.mkdir(parents=True)
    for item in RECIPE.iterdir():
        if item.is_symlink():
            (folder / item.name).symlink_to(item.resolve())
        elif item.name in ("local", "conf", "base"):
            shutil.copytree(item, folder / item.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif item.is_file() and item.name != "RESULTS.md":
            shutil.copy2(item, folder)
    return folder


def environment(venv: Path | str, **variables: str) -> dict[str, str]:
    """Ours, with the Python of this virtual environment."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "VENV": str(venv), **variables}


@pytest.fixture(scope="module")
def run(warm) -> Callable[..., subprocess.CompletedProcess]:
    """`run(recipe, *options, **variables)`: run.sh, with the warm Python."""
    def call(recipe: Path, *options: str, timeout: float = 400, **variables: str) -> subprocess.CompletedProcess:
        return subprocess.run(["./run.sh", *options, *SMALL], cwd=recipe, env=environment(warm, **variables), text=True,
                              timeout=timeout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    return call


def kill_when(venv: Path | str, recipe: Path, options: list[str], pattern: str) -> None:
    """Start run.sh and SIGKILL it, and everything below it, as soon as a file matches `pattern`."""
    process = subprocess.Popen(["./run.sh", *options, *SMALL], cwd=recipe, env=environment(venv),
                               start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(recipe.glob(pattern)):
        assert process.poll() is None and time.monotonic() < deadline, f"{pattern} did not appear in time"
        time.sleep(0.02)
    for pid in descendants(process.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def descendants(pid: int) -> list[int]:
    """`pid` and all its children's children, the youngest last."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory) -> Path:
    """The recipe after one uninterrupted run, in which every program imports what it needs when it first starts."""
    recipe = make_recipe(tmp_path_factory.mktemp("mini") / "blspkd1")
    result = run(recipe, "--stage", "1", "--stop_stage", "4", COLD=str(tmp_path_factory.mktemp("cold")))
    assert result.returncode == 0, result.stdout[-6000:]
    (recipe / "screen").write_text(result.stdout)
    return recipe


def table(path: Path) -> dict[str, str]:
    rows = [line.partition(" ") for line in path.read_text().splitlines()]
    assert [key for key, _, _ in rows] == sorted(key for key, _, _ in rows)
    return {key: value for key, _, value in rows}


def test_data_directories_are_complete(finished):
    for name in SETS:
        folder = finished / "data" / name
        text = table(folder / "text")
        for file in ("wav.scp", "utt2spk", "utt2dur"):
            assert table(folder / file).keys() == text.keys()
        assert all((finished / path).is_file() for path in table(folder / "wav.scp").values())
        assert (folder / "spk2utt").is_file()
        if name != "train":
            for file in ("text.translate", "text.qa", "text.initials", "instruction"):
                assert table(folder / file).keys() == text.keys()


def test_continuations_are_json_strings_with_their_history(finished):
    for name in ("train", "valid"):
        rows = table(finished / "data" / name / "continuation")
        assert rows and all(isinstance(json.loads(value), str) for value in rows.values())
        info = json.loads((finished / "data" / name / "continuation.info.json").read_text())
        assert info["model"] == "exp/base/llm" and info["counts"]["written"] == len(rows)
        assert info["prompt"]["instruction"] == "Continue the following text."
    assert not list(finished.glob("data/*/continuation.parts*"))


def test_the_experiment_is_complete(finished):
    exp = finished / "exp" / "train"
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert config["model"]["llm"] == "exp/base/llm" and config["training"]["max_steps"] == 12
    assert "input_kl" in (exp / "train.log").read_text()
    assert list((exp / "tensorboard").iterdir()) and (exp / "checkpoint-12").is_dir()
    assert load_file(exp / "model" / "adapter.safetensors")
    for name in SETS[2:]:
        references = table(finished / "data" / name / "text")
        for task in TASKS:
            for suffix in ("", ".text", ".chance"):
                folder = exp / f"decode_{task}_{name}{suffix}"
                rows = [json.loads(line) for line in (folder / "hyp.jsonl").read_text().splitlines()]
                assert {row["utt_id"] for row in rows} == references.keys()
                assert (folder / "text").is_file() and json.loads((folder / "score.json").read_text())


def test_results_have_every_row_in_the_agreed_form(finished):
    rows = json.loads((finished / "exp/train/results.json").read_text())
    for row in rows:
        assert row.keys() == {"system", "set", "task", "metric", "value", "ci95", "n", "seed", "signature"}
    found = {(row["system"], row["set"], row["task"], row["metric"]) for row in rows}
    for name in SETS[2:]:
        for system in ("text", "chance", "blspkd"):
            assert {(system, name, *pair) for pair in (("translate", "bleu"), ("qa", "exact_match"),
                                                       ("repeat", "wer"), ("initials", "exact_match"))} <= found
        assert ("blspkd", name, "alignment", "count_accuracy") in found
    assert any("version:" in (row["signature"] or "") for row in rows if row["metric"] == "bleu")


def test_results_page_and_screen_show_the_table(finished):
    page, screen = (finished / "exp/train/RESULTS.md").read_text(), (finished / "screen").read_text()
    for word in ("test_heard", "test_unheard", "BLEU", "synthetic", "wall time", "version:"):
        assert word in page
    assert "test_unheard" in screen and str(finished) not in page


def test_a_second_run_does_nothing(run, finished):
    def state():
        return {path: path.stat().st_mtime_ns for path in finished.rglob("*")
                if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".log", ".lock")}

    before = state()
    result = run(finished, "--stage", "1", "--stop_stage", "4")
    assert result.returncode == 0, result.stdout[-3000:]
    after = state()
    assert {path.name for path in after if after[path] != before.get(path)} <= {"RESULTS.md"}


def test_killed_in_stages_2_and_3_and_started_again_gives_the_same_files(run, warm, finished, tmp_path):
    recipe = shutil.copytree(finished, tmp_path / "blspkd1", symlinks=True)
    shutil.rmtree(recipe / "exp/train")  # what stage 1 made stays, and nothing of stages 2 to 4
    for path in recipe.glob("data/*/continuation*"):  # markers in data/.done, too
        path.unlink()

    kill_when(warm, recipe, ["--stage", "2", "--stop_stage", "2"], "data/train/continuation.parts/part*")
    assert not (recipe / "data/train/continuation").exists()
    result = run(recipe, "--stage", "2", "--stop_stage", "2")
    assert result.returncode == 0, result.stdout[-3000:]
    # The real Python: of torchrun, which starts processes of its own, everything is to be killed.
    kill_when(sys.prefix, recipe, ["--stage", "3", "--stop_stage", "3"], "exp/train/checkpoint-3/manifest.json")
    assert not (recipe / "exp/train/model").exists()
    result = run(recipe, "--stage", "1", "--stop_stage", "3")
    assert result.returncode == 0, result.stdout[-3000:]
    assert "going on from checkpoint-" in (recipe / "exp/train/train.log").read_text()
    for path in ("data/train/continuation", "data/valid/continuation", "exp/train/model/adapter.safetensors"):
        assert (recipe / path).read_bytes() == (finished / path).read_bytes(), path


def test_changed_options_are_noticed(run, warm, finished):
    result = run(finished, "--stage", "3", "--stop_stage", "3", "--llm", "exp/base/other")
    assert result.returncode != 0
    result = subprocess.run(["./run.sh", "--stage", "3", "--stop_stage", "3", "--train_args", "--max_steps 13"],
                            cwd=finished, env=environment(warm), text=True, capture_output=True)
    assert result.returncode != 0 and "--tag" in result.stdout + result.stderr


def test_compare_trains_and_measures_every_system_and_goes_on(run, warm, finished, tmp_path):
    recipe = tmp_path / "blspkd1"
    shutil.copytree(finished, recipe, symlinks=True)
    (recipe / "conf/compare.yaml").write_text(
        "reference: blspkd\nsnapshots: [blspkd]\nsystems: {beams: 1, text: 1, cascade: 1, blsp: 1, blspkd: 2, "
        "blspkd+plora: 1, blspkd-conv: 1}\nbudgets: {tiny: {max_steps: 4, max_utterances: 4, "
        "systems: [beams, text, cascade, blsp, blspkd, blspkd+plora]}}\n")
    (recipe / "conf/compare/beams.yaml").write_text("system: beams\nof: blspkd\ninference: {num_beams: 3}\n")
    options = ["--stage", "compare", "--stop_stage", "compare", "--compare_budget", "tiny", "--test_sets", "test_heard",
               "--align_sets", "test_heard", "--noise_snr_db", "10", "--compare_args", "--save_steps 2"]
    kill_when(warm, recipe, options, "exp/compare_tiny/blsp-seed0/checkpoint-2")
    assert not list(recipe.glob("exp/compare_tiny/*.json"))
    result = run(recipe, *options, timeout=600)
    assert result.returncode == 0, result.stdout[-6000:]
    assert re.search(r"7 runs of 6 systems, [0-4] of them done; [0-9]+ training steps to go, 2 at a time: about",
                     result.stdout)
    folder = recipe / "exp" / "compare_tiny"
    rows = json.loads((folder / "results.json").read_text())
    assert {"text", "chance", "cascade", "blsp", "blspkd", "blspkd+plora", "blspkd+plora, typed", "beams"} == {
        row["system"] for row in rows}
    assert not {"cost", "alignment"} & {row["task"] for row in rows if row["system"] == "beams"}
    assert {"translate", "qa", "repeat", "initials"} <= {row["task"] for row in rows if row["system"] == "beams" and
                                                         row["metric"] == "changed_answers"}
    decoded = json.loads((folder / "beams-seed0/decode_translate_test_heard/decode.json").read_text())
    assert "'num_beams': 3" in str(decoded) and not list(folder.glob("beams-seed0/checkpoint-*"))
    assert {"test_heard", "test_heard_snr10"} <= {row["set"] for row in rows if row["task"] == "translate"}
    assert {row["seed"] for row in rows if row["system"] == "blspkd"} == {0, 1}
    drift = [row["value"] for row in rows if row["task"] == "text"]
    assert len(drift) == 3 and not any(drift)  # PLoRA leaves text alone, exactly
    measured = json.loads((folder / "comparison.json").read_text())["measured"]
    along = json.loads((folder / "comparison.json").read_text())["snapshots"]
    assert {"bleu", "input_kl"} <= {one["metric"] for one in along} and {one["set"] for one in along} == {"test_heard"}
    [blsp] = [one for one in measured if (one["system"], one["set"], one["metric"]) == ("blsp", "test_heard", "bleu")]
    assert blsp["n"] == 4 and blsp["difference"] is not None and blsp["p"] is None  # too few to say
    results = (recipe / "exp/train/RESULTS.md").read_text()
    assert "## Comparison" in results and "### Answers that change: test_heard" in results
    assert "### translate by the number of speech tokens: test_heard" in results and "| R@1 speech to text |" in results
    page = (folder / "report.html").read_text()
    assert "<audio" in page and not re.search(r"(src|href)=.https?:", page)

    before = {path: path.stat().st_mtime_ns for path in folder.glob("*seed*/model/adapter.safetensors")
              if not path.parent.is_symlink()}
    again = run(recipe, *options, timeout=600)
    assert again.returncode == 0 and "7 of them done; 0 training steps to go" in again.stdout
    assert len(before) == 4 and all(path.stat().st_mtime_ns == time for path, time in before.items())

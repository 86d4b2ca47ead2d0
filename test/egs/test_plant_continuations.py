"""What is planted into continuations for stage 5's neighbouring systems, and that these can all be planned."""

import importlib
import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from blspkd.config_file import load_config
from blspkd.evaluation.comparison_plan import plan
from blspkd.evaluation.continuation_scores import write_scores
from blspkd.evaluation.scorers.health import Looped
from blspkd.evaluation_config import CompareConfig
from blspkd.kaldi.tables import read_continuations, read_table
from blspkd.training.run import resolved

REPO = Path(__file__).resolve().parents[2]
MINI = REPO / "egs/mini/blspkd1"


@pytest.fixture(scope="module")
def planted():
    sys.path.insert(0, str(MINI / "base"))
    yield importlib.import_module("plant_continuations")
    sys.path.remove(str(MINI / "base"))


def looped(text):
    return Looped().is_bad({"hypothesis": text, "reference": ""})


def test_a_share_is_replaced_by_turns_and_the_seed_says_which(planted):
    texts = {f"utt{number:03d}": f"she sold the {number} red bags" for number in range(100)}
    replaced, kinds = planted.plant_bad(texts, ["der Lehrer kam"], 0.3, 0)
    for utt_id, kind in kinds.items():
        assert {"none": replaced[utt_id] == texts[utt_id], "foreign": replaced[utt_id] == "der Lehrer kam",
                "looped": looped(replaced[utt_id])}[kind]
    assert [list(kinds.values()).count(kind) for kind in ("looped", "foreign", "none")] == [15, 15, 70]
    assert planted.plant_bad(texts, ["der Lehrer kam"], 0.3, 0) == (replaced, kinds)
    assert planted.plant_bad(texts, ["der Lehrer kam"], 0.3, 1)[1] != kinds


@pytest.mark.parametrize("text", ["one", "one two", "so he had a lot of money and went home"])
def test_a_loop_is_one_in_the_sense_of_the_scores(planted, text):
    for seed in range(20):
        found = planted.loop(text, random.Random(seed))
        assert looped(found) and set(found.split()) <= set(text.split())


def test_digits(planted):
    assert planted.with_digits("the six red bags of twenty, someone") == "the 6 red bags of 20, someone"


def test_directories_controls_and_scores_from_end_to_end(data_dir, tmp_path, planted):
    rows = [{"task": "translate", "output": "der Lehrer verkaufte Taschen"}, {"task": "repeat", "output": "the bag"}]
    (tmp_path / "lm.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bad, both = tmp_path / "bad", tmp_path / "both"

    def run(*words, status=0):
        done = subprocess.run([sys.executable, MINI / "base/plant_continuations.py", *map(str, words)], text=True,
                              capture_output=True, env={"PYTHONPATH": str(REPO), "PATH": ""})
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    assert "2 looped, 2 foreign, 8 none" in run("bad", data_dir, bad, "--foreign", tmp_path / "lm.jsonl")
    original, replaced = (read_continuations(Path(folder) / "continuation") for folder in (data_dir, bad))
    kinds = read_table(bad / "utt2planted")
    assert {utt_id for utt_id, kind in kinds.items() if kind != "none"} == {
        utt_id for utt_id in original if original[utt_id] != replaced[utt_id]}
    assert read_table(bad / "text") == read_table(Path(data_dir) / "text")
    assert json.loads((bad / "continuation.info.json").read_text())["model"]

    run("styles", bad, both)
    tags = read_table(both / "utt2tags")
    digits = [utt_id for utt_id, line in tags.items() if "style=digits" in line]
    assert len(digits) == 6 and len(tags) == 12 and read_table(both / "utt2planted") == kinds
    styled = read_continuations(both / "continuation")
    for utt_id, text in replaced.items():
        assert styled[utt_id] == (planted.with_digits(text) if utt_id in digits else text)

    write_scores(both, ["empty", "looped", "length", "foreign"])
    scores = read_table(both / "utt2score")
    worst = {utt_id for utt_id in scores if float(scores[utt_id]) < 0.3}
    assert worst == {utt_id for utt_id, kind in kinds.items() if kind != "none"}
    for table in ("utt2score", "utt2tags"):
        run("shuffle", both, table, f"{table}_random")
        dealt, told = read_table(both / f"{table}_random"), read_table(both / table)
        assert sorted(dealt.values()) == sorted(told.values()) and dealt.keys() == told.keys() and dealt != told
    assert "has no rows of the task sing" in run("bad", data_dir, bad, "--foreign", tmp_path / "lm.jsonl", "--task",
                                                 "sing", status=1)
    assert "share: 1 is no share" in run("bad", data_dir, bad, "--foreign", tmp_path / "lm.jsonl", "--share", "1",
                                         status=1)


def test_the_rows_on_planted_data_are_planned_and_the_other_budgets_have_none_of_them(tmp_path):
    conf = shutil.copytree(MINI / "conf", tmp_path / "conf")
    config = load_config(CompareConfig, conf / "compare.yaml")
    runs = {run.system: run for run in plan(config, "scored", conf / "compare", check=resolved)}
    ours = {name for name in config.budgets["scored"].systems if name.startswith(("prefer-", "tags"))}
    assert len(ours) == 11 and ours <= runs.keys() and {"blspkd", "blspkd-ce", "text"} <= runs.keys()
    assert runs["prefer-tag-good"].inference == "'--tags={\"quality\": \"good\"}'"
    assert runs["prefer-tag-good"].of == "prefer-tag-seed0" and runs["blspkd"].max_steps == 800
    right, wrong = runs["tags-words"], runs["tags-digits"]
    assert right.of == wrong.of == "tags-seed0" and (right.beside, wrong.beside) == ("tags-seed0", "tags-words-seed0")
    assert '"words"' in right.inference and '"digits"' in wrong.inference
    assert not ours & set(config.of_budget("full").systems)
    for name in ours:
        first = (conf / f"compare/{name}.yaml").read_text().splitlines()[0].lower()
        assert first.startswith("# ") and re.search(r"\b(not|no)\b", first), name  # what it is, and what it is not

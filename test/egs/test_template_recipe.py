"""README's worked example: its very commands and its very local/data.sh make a recipe that runs on a small corpus."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blspkd.kaldi.check import validate
from blspkd.kaldi.data_dir import KaldiDir
from blspkd.kaldi.tables import read_table

ROOT = Path(__file__).parents[2]
SENTENCES = {"train": ["the farmer sold six bags", "a nurse saw the old house", "we found two red cats", "go",
                       "מילים (ימין לשמאל)", "naïve café, 你好"],
             "valid": ["she reads a book on monday"], "test": ["the pilot bought a car", "Go!"]}
ENDINGS = ["wav", "flac", "ogg"]


def readme_block(language: str, holding: str) -> str:
    """The code block of README that holds this text."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    [found] = [text for kind, text in blocks if kind == language and holding in text]
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Folders of recordings, and a table of file<TAB>transcript for each set."""
    folder = tmp_path_factory.mktemp("my corpus")
    generator = np.random.default_rng(0)
    for name, sentences in SENTENCES.items():
        rows = []
        for number, sentence in enumerate(sentences):
            path = f"{name}/speaker {number % 2}/{number}.{ENDINGS[number % 3]}"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / path, generator.standard_normal(22050) * 0.1, 22050)
            rows.append(f"{path}\t{sentence}\n")
        (folder / f"{name}.tsv").write_text("".join(rows[::-1]))
    return folder


@pytest.fixture(scope="module")
def recipe(corpus, tmp_path_factory) -> Path:
    """The recipe that README's commands and README's local/data.sh make."""
    commands = readme_block("", "egs/mycorpus/blspkd1").splitlines()
    root = tmp_path_factory.mktemp("repository")
    (root / "egs").mkdir()
    (root / "egs" / "TEMPLATE").symlink_to(ROOT / "egs" / "TEMPLATE")
    assert commands[0] == "egs/TEMPLATE/blspkd1/setup.sh egs/mycorpus/blspkd1"
    subprocess.run(commands[0].split(), cwd=root, check=True, capture_output=True)
    assert commands[1] == "cd egs/mycorpus/blspkd1"
    made = root / "egs" / "mycorpus" / "blspkd1"
    with open(made / "db.sh", "a") as file:
        file.write(f"CORPUS='{corpus}'\n")
    (made / "local" / "data.sh").write_text(readme_block("bash", "CORPUS"))
    return made


def run(recipe: Path, *words: str) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["./run.sh", "--ngpu", "0", "--nj", "1", "--python", sys.executable, *words], cwd=recipe,
                          env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_readmes_data_script_is_short():
    assert len([line for line in readme_block("bash", "CORPUS").splitlines() if not line.startswith("#")]) <= 12


def test_stage_1_makes_valid_data_directories(recipe, corpus):
    run(recipe, "--stop_stage", "1")
    for name, sentences in SENTENCES.items():
        folder = recipe / "data" / name
        assert validate(folder) == []
        assert sorted(read_table(folder / "text").values()) == sorted(sentences)
        assert all(utterance.duration == pytest.approx(1.0, abs=0.01) for utterance in KaldiDir.read(folder))
    assert read_table(recipe / "data" / "train" / "wav.scp")["train-speaker-1-1-flac"] == (
        f"{corpus}/train/speaker 1/1.flac")


def test_filters_make_another_training_set(recipe):
    run(recipe, "--stop_stage", "1", "--filter_opts", "--max_tokens_per_second 6.5")
    assert len(read_table(recipe / "data" / "train" / "text")) == 6
    assert len(read_table(recipe / "data" / "train_filtered" / "utt2dur")) == 5
    counts = json.loads((recipe / "data" / "train_filtered" / "filter.json").read_text())["counts"]
    assert counts["text of a test set"] == 1 and sum(counts.values()) == 1
    assert "filter: done on" in run(recipe, "--stop_stage", "1", "--filter_opts", "--max_tokens_per_second 6.5")


def test_filters_read_the_users_tables_and_notice_when_they_change(recipe, tmp_path):
    run(recipe, "--stop_stage", "1")
    train = recipe / "data" / "train"
    ids, options = list(read_table(train / "text")), ["--stop_stage", "1", "--filter_opts"]
    kept = []
    for scores, heard in (((1, 1, 0, 1, 1, 1), "go"), ((0, 0, 1, 1, 1, 1), "go"), ((0, 0, 1, 1, 1, 1), "")):
        (train / "utt2score").write_text("".join(f"{utt_id} {x}\n" for utt_id, x in zip(ids, scores, strict=True)))
        texts = read_table(train / "text") | {ids[3]: heard}
        (tmp_path / "text").write_text("".join(f"{utt_id} {text}".strip() + "\n" for utt_id, text in texts.items()))
        run(recipe, *options, f"--score_above 0.5 --transcripts {tmp_path} --max_cer 0.9 --min_snr_db 0")
        kept.append(set(read_table(recipe / "data" / "train_filtered" / "text")))
        counts = json.loads((recipe / "data" / "train_filtered" / "filter.json").read_text())["counts"]
        assert sum(counts.values()) + len(kept[-1]) == 6
    assert ids[0] in kept[0] and not {ids[0], ids[1]} & kept[1] and ids[2] in kept[1] - kept[0]
    assert kept[1] - kept[2] <= {ids[3]}
    (train / "utt2score").unlink()


def test_a_recording_that_changed_is_measured_again(recipe, corpus):
    run(recipe, "--stop_stage", "1")
    soundfile.write(corpus / "train/speaker 1/1.flac", np.zeros(2 * 22050), 22050)
    output = run(recipe, "--stop_stage", "1")
    assert f"1 of 6 recordings changed: train-speaker-1-1-flac ({corpus}/train/speaker 1/1.flac)" in output
    assert KaldiDir.read(recipe / "data" / "train")["train-speaker-1-1-flac"].duration == 2.0

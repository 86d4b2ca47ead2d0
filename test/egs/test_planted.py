"""Errors planted in a copy of a data directory, what a filter finds of them, and the systems that stage 5 compares."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blspkd.config_file import load_config
from blspkd.data.operations.filter import filter_dir
from blspkd.data.operations.limits import Limits
from blspkd.data.sound import measure
from blspkd.evaluation.comparison_plan import plan
from blspkd.evaluation_config import CompareConfig
from blspkd.kaldi.check import validate
from blspkd.kaldi.data_dir import read_sources, read_table

REPO = Path(__file__).resolve().parents[2]
RECIPE = REPO / "egs/mini/blspkd1"
WORDS = "the a red old six farmer nurse pilot car house bag tree sold bought saw found today there".split()


def base(script: str, *words: object, fails: bool = False) -> str:
    done = subprocess.run([sys.executable, RECIPE / "base" / script, *map(str, words)], cwd=RECIPE, text=True,
                          capture_output=True, check=False)
    assert bool(done.returncode) == fails, done.stderr
    return done.stderr if fails else done.stdout


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    """40 utterances: a second of a syllable every 0.2 s; 4 get wrong transcripts, 2 noise, 2 are doubled."""
    top, draw = tmp_path_factory.mktemp("planted"), np.random.default_rng(0)
    folder = top / "train"
    folder.mkdir()
    ids = [f"s{i % 2}-{i:02d}" for i in range(40)]
    tables = {"wav.scp": {}, "text": {}, "utt2spk": {}, "continuation": {}, "word_times": {}}
    for utt_id in sorted(ids):
        envelope = np.repeat(np.resize([0.2, 0.001], 10), 1600)
        soundfile.write(top / f"{utt_id}.wav", envelope * draw.standard_normal(16000), 16000)
        text = " ".join(draw.choice(WORDS, 8))
        for name, value in (("wav.scp", f"{top}/{utt_id}.wav"), ("text", text), ("utt2spk", utt_id[:2]),
                            ("continuation", json.dumps(f"after {text}")), ("word_times", "0.1 0.2 the")):
            tables[name][utt_id] = value
    for name, rows in tables.items():
        (folder / name).write_text("".join(f"{utt_id} {value}\n" for utt_id, value in rows.items()))
    (folder / "spk2utt").write_text("".join(f"{s} {' '.join(u for u in sorted(ids) if u[:2] == s)}\n"
                                            for s in ("s0", "s1")))
    said = base("plant_errors.py", "--data_dir", folder, "--output_dir", top / "copy", "--wav_dir", top / "wav")
    assert "40 utterances; planted: 4 wrong, 2 noisy, 2 duplicates" in said
    return top


def test_what_is_planted_is_there_and_nothing_else_has_changed(planted):
    record = json.loads((planted / "copy/planted.json").read_text())
    before, after = (read_table(planted / name / "text") for name in ("train", "copy"))
    assert validate(planted / "copy") == [] and not (planted / "copy/word_times").exists()
    wrong, noisy, copies = record["wrong"], set(record["noisy"]), record["duplicates"]
    assert len({*wrong, *noisy, *copies.values()}) == 8 and after.keys() - before.keys() == copies.keys()
    assert {utt_id for utt_id, text in before.items() if after[utt_id] != text} == set(wrong)
    assert all(after[utt_id] == before[other] for utt_id, other in (wrong | copies).items())
    continuations = read_table(planted / "copy/continuation")
    assert all(continuations[utt_id] == json.dumps(f"after {text}") for utt_id, text in after.items())
    sources, old = read_sources(planted / "copy"), read_sources(planted / "train")
    assert {utt_id for utt_id in old if sources[utt_id] != old[utt_id]} == noisy
    assert all(sources[copy] == old[utt_id] for copy, utt_id in copies.items())
    assert max(measure(sources[utt_id]).snr for utt_id in noisy) < 10 < min(measure(one).snr for one in old.values())


def test_the_same_seed_plants_the_same_and_another_something_else(planted, tmp_path):
    records = []
    for seed in (0, 1):
        base("plant_errors.py", "--data_dir", planted / "train", "--output_dir", tmp_path / "copy", "--wav_dir",
             tmp_path / "wav", "--seed", seed)
        records.append(json.loads((tmp_path / "copy/planted.json").read_text()))
    first = json.loads((planted / "copy/planted.json").read_text())
    assert records[0] == first != records[1]


def test_recall_and_precision_of_each_rule(planted):
    """The recogniser hears what was really said, but for one good utterance and the noisy ones."""
    record = json.loads((planted / "copy/planted.json").read_text())
    heard = read_table(planted / "train/text")
    heard |= {copy: heard[utt_id] for copy, utt_id in record["duplicates"].items()}
    good = min(heard.keys() - {*record["wrong"], *record["noisy"], *record["duplicates"],
                               *record["duplicates"].values()})
    heard |= dict.fromkeys([good, *record["noisy"]], "")
    (planted / "copy/text.asr").write_text("".join(f"{utt_id} {text}".strip() + "\n"
                                                   for utt_id, text in sorted(heard.items())))
    filter_dir(planted / "copy", planted / "filtered", Limits(transcripts="text.asr", min_snr_db=10, max_cer=0.3,
                                                              near_duplicates=0.85))
    output = planted / "recall.json"
    said = base("filter_recall.py", "--planted", planted / "copy/planted.json", "--report",
                planted / "filtered/filter.json", "--output", output)
    assert "left out with nothing planted: 1\n" in said
    found = json.loads(output.read_text())
    assert [(found[kind]["recall"], found[kind]["precision"]) for kind in ("wrong", "noisy", "duplicates")] == [
        (1, 4 / 5), (1, 1), (1, 1)]


def test_mistakes_are_told(planted, tmp_path):
    said = base("plant_errors.py", "--data_dir", planted / "train", "--output_dir", tmp_path / "copy", "--wav_dir",
                tmp_path / "wav", "--wrong", "0.9", "--noisy", "0.2", fails=True)
    assert "error: the shares of wrong, noisy, duplicates are not from 0 to 1, or more than 1 together" in said
    said = base("filter_recall.py", "--planted", planted / "nowhere", "--report", planted / "nowhere", fails=True)
    assert "nowhere: is missing or no record" in said


def test_stage_5_can_plan_the_comparison():
    config = load_config(CompareConfig, RECIPE / "conf/compare_planted.yaml")
    runs = plan(config, "planted", RECIPE / "conf/compare_planted")
    assert {run.system for run in runs} == {"text", "blspkd", "blspkd+filter", "blspkd+random"}
    assert len(runs) == 10 and {run.max_steps for run in runs if not run.reads} == {800}

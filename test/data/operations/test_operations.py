"""Data operations: found by name, checked without torch, applied to the training set alone, and told."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blspkd.bin.train import main
from blspkd.config import DataConfig, PromptConfig
from blspkd.data.examples import make_examples
from blspkd.data.operations import OPERATIONS, Operation, apply_operations, make_operations
from blspkd.data.operations.filter import filter_dir
from blspkd.data.operations.limits import Limits
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.errors import ConfigError, DataError
from blspkd.kaldi.data_dir import KaldiDir, read_continuations, read_table
from blspkd.training.run import keep_record
from blspkd.training.trainer import KdTrainer

OPTIONS = ["--pad_to_30s", "false", "--adapter_options",
           "{heads: 2, ffn_dim: 32, num_pre_cif_layers: 1, num_post_cif_layers: 1}",
           "--warmup_steps", "1", "--batch_utterances", "4", "--num_workers", "0",
           "--max_steps", "2", "--save_steps", "1"]
WEIGHTS = "[{name: by_weight, above: 0.25}]"


class ByWeight(Operation):
    """An utterance as often as its weight in utt2weight says; with `shuffle` some of them change places."""

    @dataclass(frozen=True)
    class Options(Operation.Options):
        above: float = 0.0
        shuffle: bool = False

    def apply(self, examples, data, random):
        weights = {utt_id: float(value) for utt_id, value in read_table(data.path / "utt2weight").items()}
        weights = {example.utt_id: weights.get(example.utt_id, 1.0) for example in examples}
        kept = [example for example in examples for _ in range(round(weights[example.utt_id]))
                if weights[example.utt_id] > self.options.above]
        if self.options.shuffle:
            kept = [kept[place] for place in random.permutation(len(kept))]
        return kept, {"light": [utt_id for utt_id, weight in weights.items() if weight <= self.options.above],
                      "heard several times": [utt_id for utt_id, weight in weights.items() if weight > 1]}


@pytest.fixture(autouse=True)
def by_weight(monkeypatch):
    monkeypatch.setitem(OPERATIONS, "by_weight", ByWeight)


@pytest.fixture
def weighted(data_dir):
    (Path(data_dir) / "utt2weight").write_text("spk0-utt000 0\nspk0-utt002 3\nspk1-utt001 0.2\n")
    return data_dir


@pytest.fixture
def examples_of(tiny_llm):
    def read(folder):
        data = KaldiDir.read(folder)
        prompt = Prompt(load_tokenizer(tiny_llm), PromptConfig("Continue:"))
        return make_examples(data, read_continuations(data.path / "continuation"), prompt, DataConfig()).examples, data
    return read


def ids(examples):
    return [example.utt_id for example in examples]


@pytest.mark.parametrize(("entry", "message"), [
    ({"name": "filtr"}, "train.yaml: data.operations, entry 2: unknown operation 'filtr'; did you mean 'filter'"),
    ({"name": "filter", "max_durations": 3},
     "entry 2: filter: unknown key 'max_durations'; did you mean 'max_duration'"),
    ({"name": "filter", "max_clipping": 3}, "entry 2: filter: max_clipping: is a share"),
    ({"name": "filter", "test_dirs": "data/test"}, "filter: test_dirs: expected list"),
    ("filter", "expected {name: ..., option: value}, found 'filter'"),
    ({"max_duration": 3}, "expected {name: ..., option: value}"),
])
def test_unknown_names_and_options_are_told_with_the_nearest(entry, message):
    with pytest.raises(ConfigError) as error:
        make_operations([{"name": "filter"}, entry], "train.yaml")
    assert message in str(error.value)


def test_operations_are_checked_without_torch():
    code = ("import sys\nfrom blspkd.data.operations import make_operations\n"
            "make_operations([{'name': 'filter', 'max_duration': 3}])\nsys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode == 0


def test_a_mistake_ends_the_command_before_anything_is_read(capsys):
    with pytest.raises(SystemExit):
        main(["--train_dir", "nowhere", "--valid_dir", "nowhere", "--output_dir", "nowhere", "--operations",
              "[{name: by_wait}]"])
    assert "unknown operation 'by_wait'; did you mean 'by_weight'" in capsys.readouterr().err


def test_operations_follow_one_another_and_say_what_they_did(weighted, examples_of, caplog):
    examples, data = examples_of(weighted)
    caplog.set_level("INFO")
    entries = [{"name": "by_weight"}, {"name": "by_weight", "above": 1}]
    found, record = apply_operations(entries, examples, data, 0)
    assert ids(found) == ["spk0-utt002"] * 9
    first, second = record["operations"]
    assert first == {"name": "by_weight", "before": 12, "after": 12,
                     "report": {"light": ["spk0-utt000"], "heard several times": ["spk0-utt002"]}}
    assert (second["above"], second["before"], second["after"], len(second["report"]["light"])) == (1, 12, 9, 9)
    assert "operation by_weight: 12 examples of 12: 1 light (spk0-utt000); 1 heard several times" in caplog.text
    assert "9 light (spk0-utt004, spk0-utt006, spk0-utt008 ...)" in caplog.text


def test_random_numbers_follow_from_the_seed_and_the_place(weighted, examples_of):
    examples, data = examples_of(weighted)
    drawn = [apply_operations([{"name": "by_weight", "shuffle": True}], examples, data, seed) for seed in (0, 0, 1)]
    assert ids(drawn[0][0]) == ids(drawn[1][0]) != ids(drawn[2][0])
    assert drawn[0][1] == drawn[1][1] != drawn[2][1]  # the record tells the order too


def test_nothing_left_is_an_error(weighted, examples_of):
    with pytest.raises(DataError, match="operation by_weight: no utterance is left to train on"):
        apply_operations([{"name": "by_weight", "above": 9}], *examples_of(weighted), 0)


def test_the_filter_leaves_out_of_examples_what_it_leaves_out_of_a_directory(data_dir, examples_of, tiny_llm, tmp_path):
    folder = Path(data_dir)
    for utt_id, samples in (("spk0-utt000", np.zeros(16000)), ("spk0-utt002", np.sign(np.sin(np.arange(19000)))),
                            ("spk1-utt001", None)):
        (folder / f"{utt_id}.wav").write_bytes(b"no audio")
        if samples is not None:
            soundfile.write(folder / f"{utt_id}.wav", samples, 16000)
    (tmp_path / "test").mkdir()
    (tmp_path / "test/text").write_text("t1 she reads a book, on Monday\n")
    limits, tests = {"max_duration": 1.2, "max_tokens_per_second": 7.0}, [str(tmp_path / "test")]
    examples, data = examples_of(data_dir)
    found, record = apply_operations([{"name": "filter", "test_dirs": tests, **limits}], examples, data, 0)
    done = filter_dir(folder, tmp_path / "kept", Limits(**limits), test_dirs=tests, llm=tiny_llm)
    assert ids(found) == done.kept and 0 < len(found) < 9
    assert record["operations"][0]["report"] == {reason: sorted(told) for reason, told in done.left_out.items() if told}
    assert {"silence", "clipping", "undecodable audio", "text of a test set", "too long",
            "too many tokens per second"} == {reason for reason, told in done.left_out.items() if told}


def train(data_dir, llm, encoder, output, *extra):
    main(["--llm", llm, "--speech_encoder", encoder, "--train_dir", data_dir, "--valid_dir", data_dir,
          "--output_dir", str(output), *OPTIONS, *extra])
    return (output / "model/adapter.safetensors").read_bytes()


def test_a_training_hears_what_the_operations_leave(weighted, tiny_llm, tiny_encoder, tmp_path, monkeypatch, capsys):
    heard = []

    def keep(trainer, *args, **kwargs):
        heard.append((ids(trainer.train_examples), ids(trainer.valid_examples)))
        return original(trainer, *args, **kwargs)

    original = KdTrainer.train
    monkeypatch.setattr(KdTrainer, "train", keep)
    extra = ["--operations", WEIGHTS, "--cache_encoder_frames", "true", "--cache_teacher", "true"]
    straight = train(weighted, tiny_llm, tiny_encoder, tmp_path / "a", *extra)
    trained, validated = heard[0]
    assert trained.count("spk0-utt002") == 3 and len(trained) == 12 and len(validated) == 12
    assert not {"spk0-utt000", "spk1-utt001"} & set(trained) and "spk0-utt000" in validated
    [done] = json.loads((tmp_path / "a/operations.json").read_text())["operations"]
    assert done["report"] == {"light": ["spk0-utt000", "spk1-utt001"], "heard several times": ["spk0-utt002"]}
    assert straight != train(weighted, tiny_llm, tiny_encoder, tmp_path / "all")
    assert not (tmp_path / "all/operations.json").exists()

    shutil.rmtree(tmp_path / "a/checkpoint-2")
    assert train(weighted, tiny_llm, tiny_encoder, tmp_path / "a", *extra) == straight  # resumed
    assert heard[-1] == heard[0]
    (Path(weighted) / "utt2weight").write_text("spk0-utt000 0\n")
    with pytest.raises(SystemExit):
        train(weighted, tiny_llm, tiny_encoder, tmp_path / "a", *extra)
    assert "operations.json: this run began with other examples" in capsys.readouterr().err


def test_a_mixed_training_resumes_caches_all_and_is_the_plain_one_where_nothing_is_asked(
        data_dir, tiny_llm, tiny_encoder, tmp_path):
    """Batches of 2, so that the 3 steps reach a second epoch's draw; the caches hold what no epoch may have drawn."""
    (Path(data_dir) / "utt2domain").write_text("".join(f"spk{i % 2}-utt{i:03d} d{i % 2}\n" for i in
                                                       sorted(range(12), key=lambda i: (i % 2, i))))
    steps = ["--batch_utterances", "2", "--max_steps", "8", "--save_steps", "7", "--cache_teacher", "true",
             "--cache_encoder_frames", "true"]

    def mixed(folder, weights):
        return train(data_dir, tiny_llm, tiny_encoder, tmp_path / folder, *steps, "--operations",
                     f"[{{name: mix, weights: {weights}}}]")

    straight = mixed("a", "{d0: 1, d1: 4}")
    shutil.rmtree(tmp_path / "a/checkpoint-8")
    (tmp_path / "a/model/adapter.safetensors").unlink()
    assert mixed("a", "{d0: 1, d1: 4}") == straight
    as_they_are = mixed("b", "{d0: 2, d1: 2}")
    assert as_they_are == train(data_dir, tiny_llm, tiny_encoder, tmp_path / "c", *steps) != straight


def test_a_record_of_a_run_that_never_began_is_replaced(tmp_path):
    for record in ({"data": "a", "examples": "1"}, {"data": "b", "examples": "2"}):
        keep_record(record, tmp_path, write=True)
    other, elsewhere = {"data": "c", "examples": "1"}, {"data": "moved/c", "examples": "2"}
    keep_record(other, tmp_path, write=False)  # another rank
    (tmp_path / "config.yaml").touch()
    with pytest.raises(DataError, match="other examples: a table or the audio of c has changed"):
        keep_record(other, tmp_path, write=True)
    assert json.loads((tmp_path / "operations.json").read_text()) == record
    keep_record(elsewhere, tmp_path, write=True)  # the same examples, from a directory that has moved

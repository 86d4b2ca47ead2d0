"""A training from a packed directory: the weights of one from the data directory, and refusals before any model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from blspkd.bin import data_dir, train
from blspkd.models import speech_llm

OPTIONS = ["--pad_to_30s", "false", "--adapter_options",
           "{heads: 2, ffn_dim: 32, num_pre_cif_layers: 1, num_post_cif_layers: 1}",
           "--warmup_steps", "1", "--batch_utterances", "4", "--num_workers", "0", "--max_steps", "5",
           "--learning_rate", "3e-3", "--save_steps", "3", "--log_steps", "1", "--eval_steps", "2"]
ALIGN = "{loss: {terms: {embedding: {weight: 2}, contrast: {weight: 1}}}, training: {max_steps: 3}}"


@pytest.fixture
def packed(data_dir_with_two_sets, tiny_llm, tmp_path) -> Path:
    for name in "train", "valid":
        data_dir.main(["pack", str(data_dir_with_two_sets / name), str(tmp_path / "packed" / name), "--llm", tiny_llm])
    return tmp_path / "packed"


@pytest.fixture
def data_dir_with_two_sets(data_dir) -> Path:
    """data/train with tables for operations, and data/valid of the same utterances."""
    folder = Path(data_dir)
    ids = [line.split()[0] for line in (folder / "text").read_text().splitlines()]
    (folder / "utt2domain").write_text("".join(f"{utt_id} {'ab'[i % 2]}\n" for i, utt_id in enumerate(ids)))
    (folder / "utt2tags").write_text("".join(f"{utt_id} language={'en' if i % 2 else 'de'}\n"
                                             for i, utt_id in enumerate(ids)))
    shutil.copytree(folder, folder.parent / "valid")
    return folder.parent


@pytest.fixture
def run(tiny_llm, tiny_encoder, tmp_path):
    def run(data, name, *extra, options=OPTIONS):
        output = tmp_path / "exp" / name
        train.main(["--llm", tiny_llm, "--speech_encoder", tiny_encoder, "--train_dir", str(data / "train"),
                    "--valid_dir", str(data / "valid"), "--output_dir", str(output), *options, *extra])
        history = json.loads((output / "checkpoint-5/trainer_state.json").read_text())["log_history"]
        losses = [(row["step"], key, value) for row in history for key, value in row.items()
                  if ("loss" in key or "kl" in key) and "runtime" not in key]
        return {f"{path.relative_to(output / 'model')}:{key}": value for path in
                sorted((output / "model").rglob("*.safetensors")) for key, value in load_file(path).items()}, losses
    return run


@pytest.mark.parametrize("extra", [
    ["--time_masks", "2", "--speed_factors", "[0.9, 1.0, 1.1]", "--noise_snr_db", "[5, 20]", "--plora_rank", "2"],
    ["--align", ALIGN, "--num_workers", "1", "--gradient_accumulation", "2"],
    ["--operations", "[{name: mix, weights: {a: 1, b: 3}}, {name: tags, order: [language]}]"],
    ["--cache_teacher", "true", "--cache_encoder_frames", "true", "--max_duration", "1.4"]],
    ids=["augmented", "aligned", "operations", "caches"])
def test_weights_and_losses_are_the_same_to_the_last_bit(data_dir_with_two_sets, packed, run, extra):
    weights, losses = run(data_dir_with_two_sets, "directory", *extra)
    packed_weights, packed_losses = run(packed, "packed", *extra)
    assert weights.keys() == packed_weights.keys() and len(weights) > 9
    assert all(torch.equal(weights[key], packed_weights[key]) for key in weights)
    assert losses == packed_losses and any(key.startswith("eval_") for _, key, _ in losses)


def test_a_run_goes_on_from_the_other_form(data_dir_with_two_sets, packed, run, tmp_path):
    weights, _ = run(data_dir_with_two_sets, "straight")
    shutil.copytree(tmp_path / "exp/straight", tmp_path / "exp/resumed")
    shutil.rmtree(tmp_path / "exp/resumed/model")
    shutil.rmtree(tmp_path / "exp/resumed/checkpoint-5")
    resumed, _ = run(packed, "resumed")
    assert all(torch.equal(weights[key], resumed[key]) for key in weights)


@pytest.mark.parametrize("what, message", [
    ("text", "train/text: has changed since"), ("cut", "shard-00001-of-00001.arrow: has 1000 bytes"),
    ("unfinished", "packing is not complete"), ("other prompt", "valid: was packed with another prompt")])
def test_refusals_come_before_a_model_is_loaded(data_dir_with_two_sets, packed, run, capsys, monkeypatch, what,
                                                message):
    data = data_dir_with_two_sets
    if what == "text":
        (data / "train/text").write_text((data / "train/text").read_text().replace("farmer", "former"))
    elif what == "cut":
        with open(next((packed / "valid/shards").iterdir()), "r+b") as file:
            file.truncate(1000)
    elif what == "unfinished":
        (packed / "train/packed.json").unlink()
    else:
        info = json.loads((data / "valid/continuation.info.json").read_text())
        info["prompt"]["instruction"] = "Go on:"
        (data / "valid/continuation.info.json").write_text(json.dumps(info))
        data_dir.main(["pack", str(data / "valid"), str(packed / "valid"), "--llm", info["model"]])
    monkeypatch.setattr(speech_llm.SpeechEncoder, "from_pretrained", lambda *_: pytest.fail("a model was loaded"))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run(packed, "refused")
    error = capsys.readouterr().err
    assert message in error and "utils/data_dir.sh pack --llm" in error

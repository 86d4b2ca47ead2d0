"""The configurations of DeepSpeed that recipes have train what one process trains, and write it whole."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from blspkd.training.checkpoint import load_deepspeed_safely

ROOT = Path(__file__).parents[2]
CONF = ROOT / "egs/TEMPLATE/blspkd1/conf"
pytestmark = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")


def model_of(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{path.name}:{key}": value for path in sorted((folder / "model").rglob("*.safetensors"))
            for key, value in load_file(path).items()}


COMMAND = ["--pad_to_30s", "false", "--adapter_options",
           "{heads: 2, ffn_dim: 32, num_pre_cif_layers: 1, num_post_cif_layers: 1}", "--plora_rank", "2",
           "--warmup_steps", "1", "--batch_utterances", "5", "--num_workers", "0", "--save_steps", "2",
           "--eval_steps", "2", "--log_steps", "1", "--schedule", "constant"]


@pytest.fixture
def run(data_dir, tiny_llm, tiny_encoder, tmp_path):
    """A training by two processes in tmp_path/<name>."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                   "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}

    def run(name: str, *options: str) -> None:
        done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                               "-m", "blspkd.bin.train", "--llm", tiny_llm, "--speech_encoder", tiny_encoder,
                               "--train_dir", data_dir, "--valid_dir", data_dir, *COMMAND, "--output_dir",
                               str(tmp_path / name), *options],
                              env=environment, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    return run


def test_an_alignment_before_goes_without(run, tmp_path):
    """In one process: what phase one leaves behind does not decide how phase two loads its models."""
    run("both", "--deepspeed", str(CONF / "ds_zero3.json"), "--max_steps", "2", "--align",
        "{loss: {terms: {embedding: {weight: 1}}}, training: {max_steps: 1}}")
    assert model_of(tmp_path / "both").keys() > model_of(tmp_path / "both/align").keys() != set()
    assert (tmp_path / "both/checkpoint-2/latest").exists() and not list((tmp_path / "both/align").rglob("latest"))


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_trains_what_data_parallel_does(stage, run, tmp_path):
    options = ["--max_steps", "4", "--snapshot_steps", "[2]", "--average_checkpoints", "2"]
    zero = [*options, "--deepspeed", str(CONF / f"ds_zero{stage}.json")]
    run("plain", *options)
    run("zero", *zero)
    expected, found = model_of(tmp_path / "plain"), model_of(tmp_path / "zero")
    assert found.keys() == expected.keys() and found
    for name, value in expected.items():
        assert value.numel()
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)
    evaluated = [[row["eval_response_kl"] for row in
                  json.loads((tmp_path / name / "checkpoint-4/trainer_state.json").read_text())["log_history"]
                  if "eval_response_kl" in row] for name in ("plain", "zero")]
    assert evaluated[1] == pytest.approx(evaluated[0], rel=1e-4)
    assert load_file(tmp_path / "zero/snapshots/2/model/adapter.safetensors").keys() == {
        name.partition(":")[2] for name in expected if name.startswith("adapter.safetensors")}

    trained = sum(value.numel() for value in expected.values())
    states = list((tmp_path / "zero/checkpoint-4").rglob("*model_states.pt"))
    load_deepspeed_safely()
    held = [value for path in states for value in torch.load(path, weights_only=True)["module"].values()]
    assert states and sum(value.numel() for value in held) <= len(states) * trained

    for path in ("model", "checkpoint-4"):
        shutil.rmtree(tmp_path / "zero" / path)
    run("zero", *zero)  # goes on from checkpoint-2
    for name, value in found.items():
        torch.testing.assert_close(model_of(tmp_path / "zero")[name], value, rtol=1e-5, atol=1e-6, msg=name)

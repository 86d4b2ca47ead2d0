"""`--pack true`: stage 3 packs its sets in jobs, trains the same weights from them, and packs nothing twice."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
TRAIN = ("--max_steps 2 --batch_utterances 4 --num_workers 0 --pad_to_30s false --adapter cformer --adapter_options "
         "'{heads: 2, ffn_dim: 32, num_pre_cif_layers: 1, num_post_cif_layers: 1}'")


@pytest.fixture
def recipe(tmp_path) -> Path:
    (tmp_path / "egs").mkdir()
    (tmp_path / "egs/TEMPLATE").symlink_to(ROOT / "egs/TEMPLATE")
    subprocess.run(["egs/TEMPLATE/blspkd1/setup.sh", "egs/mine/blspkd1"], cwd=tmp_path, check=True, capture_output=True)
    made = tmp_path / "egs/mine/blspkd1"
    (made / "conf/train.yaml").write_text("{}\n")
    return made


@pytest.fixture
def run(recipe, warm, data_dir, tiny_llm, tiny_encoder):
    def run(*words):
        options = ["--stage", "train", "--stop_stage", "train", "--datadir", str(Path(data_dir).parent), "--train_set",
                   "train", "--valid_set", "train", "--llm", tiny_llm, "--speech_encoder", tiny_encoder, "--ngpu", "0",
                   "--nj", "2", "--train_args", TRAIN]
        done = subprocess.run(["./run.sh", *options, *words], cwd=recipe, timeout=300, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env={**os.environ, "PYTHONPATH": str(ROOT), "VENV": str(warm)})
        assert done.returncode == 0, done.stdout
        return done.stdout
    return run


def weights(folder: Path) -> dict:
    return {f"{path.name}:{key}": value for path in sorted(folder.rglob("*.safetensors"))
            for key, value in load_file(path).items()}


def test_stage_3_trains_the_same_weights_from_packed_sets(recipe, run, data_dir):
    run("--tag", "plain")
    told = run("--tag", "packed", "--pack", "true")
    assert "dump/packed/train: packed" in told
    plain, packed = (weights(recipe / "exp" / tag / "model") for tag in ("plain", "packed"))
    assert plain and all(torch.equal(plain[key], packed[key]) for key in plain)
    assert "dump/packed/train: 12 utterances" in (recipe / "exp/packed/train.log").read_text()
    [shard] = (recipe / "dump/packed/train/shards").iterdir()
    before = shard.stat().st_ino
    assert "packed" not in run("--tag", "packed", "--pack", "true").partition("stage 3")[2].replace("exp/packed", "")
    run("--tag", "again", "--pack", "true")
    assert shard.stat().st_ino == before
    assert "0 written, 1 there already; complete" in (recipe / "dump/packed/log/train.1.log").read_text()

"""Checkpoints count when they are whole; runs continue with the batches with which they began."""

import logging
import os
import re
import resource
import shutil
import sys
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file

from blspkd.bin.train import main
from blspkd.config import TrainConfig, TrainingConfig
from blspkd.config_file import save_config
from blspkd.errors import ConfigError
from blspkd.training.checkpoint import (
    MANIFEST,
    Split,
    complete_checkpoints,
    finish_checkpoint,
    load_deepspeed_safely,
)
from blspkd.training.run import check_unchanged, split_of
from blspkd.training.trainer import KdTrainer

OPTIONS = ["--pad_to_30s", "false", "--adapter_options",
           "{heads: 2, ffn_dim: 32, num_pre_cif_layers: 1, num_post_cif_layers: 1}",
           "--warmup_steps", "1", "--batch_utterances", "4", "--num_workers", "0",
           "--learning_rate", "3e-3", "--save_steps", "2", "--log_steps", "1", "--max_steps", "4", "--plora_rank", "2",
           "--schedule", "constant"]


def command_of(data_dir, llm, encoder, output, *extra) -> list[str]:
    return ["--llm", llm, "--speech_encoder", encoder, "--train_dir", data_dir, "--valid_dir", data_dir,
            "--output_dir", str(output), *OPTIONS, *extra]


@pytest.fixture
def trained(data_dir, tiny_llm, tiny_encoder, tmp_path):
    """A finished run with the checkpoints 2 and 4, and a function that starts its command again."""
    command = command_of(data_dir, tiny_llm, tiny_encoder, tmp_path / "run")
    main(command)
    return tmp_path / "run", lambda: main(command)


def fake(folder: Path, step: int, keep: int = 0) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(f"step: {step}")
    torch.save({"state": {0: {"step": torch.tensor(1.0)}}}, path / "optimizer.pt")
    finish_checkpoint(path, Split(1, 1), keep)
    return path


def model_of(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{path.name}:{key}": value for path in sorted((folder / "model").rglob("*.safetensors"))
            for key, value in load_file(path).items()}


def assert_equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys() and found
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def test_one_with_any_file_damaged_does_not_count_and_is_named(trained, caplog):
    newest = trained[0] / "checkpoint-4"
    names = sorted(path.relative_to(newest).as_posix() for path in newest.rglob("*") if path.is_file())
    assert {"adapter.safetensors", "plora/adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth",
            "trainer_state.json", MANIFEST} <= set(names)
    shutil.copytree(newest, trained[0] / "kept")
    for name in names:
        for damage in (shorten, flip, empty, Path.unlink):
            caplog.clear()
            damage(newest / name)
            assert [path.name for path in complete_checkpoints(trained[0])] == ["checkpoint-2"], (name, damage)
            # of a digest that was changed in the manifest, the file is named
            assert f"checkpoint-4/{name}: " in caplog.text or name == MANIFEST and "checkpoint-4" in caplog.text
            shutil.copy(trained[0] / "kept" / name, newest / name)
    assert len(complete_checkpoints(trained[0])) == 2


@pytest.mark.parametrize("step", [2, 4])
def test_a_run_continues_from_the_one_before(trained, step, caplog):
    """Or from the start, when the first one is damaged as well; the result is the same, bit for bit."""
    folder, again = trained
    expected = model_of(folder)
    shutil.rmtree(folder / "model")
    for damaged in range(step, 5, 2):
        (folder / f"checkpoint-{damaged}/optimizer.pt").unlink()
    caplog.set_level(logging.INFO)
    again()
    assert f"checkpoint-{step}/optimizer.pt: is missing; this checkpoint is not used" in caplog.text
    begin = "going on from checkpoint-2" if step == 4 else "no checkpoint is whole, so that training starts at step 0"
    assert begin in caplog.text
    assert_equal(model_of(folder), expected)
    assert [path.name for path in complete_checkpoints(folder)] == ["checkpoint-2", "checkpoint-4"]


class Hostile:
    def __reduce__(self):
        return os.mkdir, (f"{os.environ['HOSTILE']}",)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt"])
def test_nothing_but_tensors_and_numbers_is_unpickled(tmp_path, name, monkeypatch, caplog):
    monkeypatch.setenv("HOSTILE", str(tmp_path / "made_by_the_checkpoint"))
    torch.save({"python": Hostile()}, fake(tmp_path, 4) / name)
    finish_checkpoint(tmp_path / "checkpoint-4", Split(1, 1), 0)  # its manifest says so, too
    assert complete_checkpoints(tmp_path) == []
    assert not (tmp_path / "made_by_the_checkpoint").exists()
    assert re.search(rf"checkpoint-4/{name}: holds (posix|nt)\.mkdir, where only tensors", caplog.text)
    assert "weights_only" not in caplog.text


def test_a_forged_file_of_no_known_format_does_not_count(tmp_path, caplog):
    (fake(tmp_path, 4) / "optimizer.pt").write_bytes(b"cposix\nmkdir\n(Vx\ntR.")  # a pickle, and no file of torch's
    finish_checkpoint(tmp_path / "checkpoint-4", Split(1, 1), 0)
    assert complete_checkpoints(tmp_path) == [] and "optimizer.pt: cannot be read" in caplog.text


def test_deepspeed_unpickles_no_more_than_that(tmp_path, monkeypatch):
    """It asks torch for everything that a file holds."""
    for name in ("runtime.fp16.loss_scaler", "runtime.zero.config", "utils.tensor_fragment"):
        monkeypatch.setitem(sys.modules, f"deepspeed.{name}", Mock())
    for name in ("", ".runtime", ".runtime.fp16", ".runtime.zero", ".utils"):
        monkeypatch.setitem(sys.modules, f"deepspeed{name}", Mock())
    monkeypatch.setattr(torch.serialization, "add_safe_globals", Mock())
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    monkeypatch.setenv("HOSTILE", str(tmp_path / "made_by_the_checkpoint"))
    torch.save(Hostile(), tmp_path / "optim_states.pt")
    load_deepspeed_safely()
    with pytest.raises(UnpicklingError):
        partial(torch.load, tmp_path / "optim_states.pt", weights_only=False)()
    assert not (tmp_path / "made_by_the_checkpoint").exists()


def test_one_without_a_manifest_does_not_count_and_is_named(tmp_path, caplog):
    """Its writing was stopped, or an older version wrote it."""
    fake(tmp_path, 2)
    (fake(tmp_path, 4) / MANIFEST).unlink()
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-2"]
    assert "checkpoint-4: has no manifest.json" in caplog.text and "older version" in caplog.text


@pytest.mark.parametrize("contents", ["[]", '{"step": 4}', '{"step": 4, "num_ranks": 1, "gradient_accumulation": 1, '
                                      '"files": {"a": 1}}', "null", '{"files"',
                                      '{"step": 4, "num_ranks": Infinity}', 99999 * "["])
def test_a_damaged_manifest_is_named(tmp_path, contents, caplog):
    (fake(tmp_path, 4) / MANIFEST).write_text(contents)
    assert complete_checkpoints(tmp_path) == []
    assert f"checkpoint-4/{MANIFEST}: is damaged" in caplog.text


def test_one_under_another_name_does_not_count(tmp_path, caplog):
    fake(tmp_path, 4).rename(tmp_path / "checkpoint-6")
    assert complete_checkpoints(tmp_path) == [] and "was written as checkpoint-4" in caplog.text


def test_older_ones_go_when_a_new_one_is_whole(tmp_path):
    for step in (2, 4, 6, 10):
        fake(tmp_path, step)
    fake(tmp_path, 8, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-6", "checkpoint-8"]


def test_the_old_one_stays_until_the_new_one_is_whole(data_dir, tiny_llm, tiny_encoder, tmp_path, monkeypatch):
    """With `keep_checkpoints: 1` as well: a kill at any time leaves one."""
    def killed_at_4(folder, split, keep):
        if folder.name == "checkpoint-4":
            raise KeyboardInterrupt
        finish_checkpoint(folder, split, keep)

    monkeypatch.setattr("blspkd.training.saving.finish_checkpoint", killed_at_4)
    with pytest.raises(SystemExit):
        main(command_of(data_dir, tiny_llm, tiny_encoder, tmp_path / "run", "--keep_checkpoints", "1"))
    assert [path.name for path in complete_checkpoints(tmp_path / "run")] == ["checkpoint-2"]


@pytest.mark.parametrize(("num_ranks", "accumulation", "deepspeed", "refused"), [
    (2, 2, "", ""), (4, 1, "", ""), (1, 4, "", ""), (2, 1, "", "2 ranks x gradient_accumulation 1 = 2 batches"),
    (1, 2, "", ""), (4, 2, "", ""), (3, 2, "", "3 ranks x gradient_accumulation 2 = 6 batches"),  # the same in the file
    (8, 2, "", "8 ranks x gradient_accumulation 2 = 16 batches"), (4, 3, "", "4 ranks x gradient_accumulation 3"),
    (2, 2, "zero.json", ""), (4, 1, "zero.json", "DeepSpeed's checkpoints"), (1, 2, "zero.json", "DeepSpeed's")])
def test_ranks_may_change_where_a_step_keeps_its_batches(tmp_path, num_ranks, accumulation, deepspeed, refused):
    save_config(TrainConfig(training=TrainingConfig(gradient_accumulation=2, deepspeed=deepspeed)),
                tmp_path / "config.yaml")
    (tmp_path / "checkpoint-2").mkdir()
    finish_checkpoint(tmp_path / "checkpoint-2", Split(2, 2), 0)
    now = TrainConfig(training=TrainingConfig(gradient_accumulation=accumulation, deepspeed=deepspeed))
    if not refused:
        check_unchanged(now, tmp_path, num_ranks)
        assert split_of(now, tmp_path, num_ranks) == Split(num_ranks, 4 // num_ranks)
        return
    with pytest.raises(ConfigError, match=r"2 ranks x gradient_accumulation 2 = 4 batches.*" + re.escape(refused)):
        check_unchanged(now, tmp_path, num_ranks)


@pytest.mark.parametrize("file", ["plora/adapter_model.safetensors", "optimizer.pt", "trainer_state.json"])
def test_a_full_disk_leaves_the_checkpoint_before(data_dir, tiny_llm, tiny_encoder, tmp_path, file, monkeypatch,
                                                  capsys):
    """While a file of the second checkpoint is written, none may be larger than half of it was in the first."""
    command = command_of(data_dir, tiny_llm, tiny_encoder, tmp_path / "run")
    main(command)
    expected = model_of(tmp_path / "run")
    most = (tmp_path / "run/checkpoint-4" / file).stat().st_size // 2
    shutil.rmtree(tmp_path / "run/model")
    shutil.rmtree(tmp_path / "run/checkpoint-4")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    save = KdTrainer._save_checkpoint

    def save_on_a_full_disk(*args):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
        return save(*args)

    monkeypatch.setattr(KdTrainer, "_save_checkpoint", save_on_a_full_disk)
    try:
        with pytest.raises(SystemExit) as end:
            main(command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert end.value.code == 1
    assert re.search(r"error: \S+/run\S*: File too large; .* start the same command again\n", capsys.readouterr().err)
    assert [path.name for path in complete_checkpoints(tmp_path / "run")] == ["checkpoint-2"]
    monkeypatch.setattr(KdTrainer, "_save_checkpoint", save)
    main(command)
    assert_equal(model_of(tmp_path / "run"), expected)

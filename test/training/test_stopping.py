"""A signal stops a training at the end of a step, with a checkpoint; the same command goes on to the same weights."""

import multiprocessing
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from blspkd.bin.train import main
from blspkd.errors import STOPPED
from blspkd.training import phase, saving, trainer
from blspkd.training.checkpoint import complete_checkpoints
from blspkd.training.trainer import KdTrainer

STEPS = 5
OPTIONS = ["--pad_to_30s", "false", "--adapter_options",
           "{heads: 2, ffn_dim: 32, num_pre_cif_layers: 1, num_post_cif_layers: 1}", "--warmup_steps", "1",
           "--batch_utterances", "2", "--num_workers", "0", "--learning_rate", "3e-3", "--save_steps", "100",
           "--log_steps", "1", "--max_steps", f"{STEPS}", "--plora_rank", "2", "--plora_dropout", "0.1"]


@pytest.fixture
def run(data_dir, tiny_llm, tiny_encoder, tmp_path):
    """Start stage 3 in tmp_path/<name>; returns its exit status."""
    def run(name, *extra):
        try:
            main(["--llm", tiny_llm, "--speech_encoder", tiny_encoder, "--train_dir", data_dir, "--valid_dir", data_dir,
                  "--output_dir", str(tmp_path / name), *OPTIONS, *extra])
        except SystemExit as end:
            return end.code
        return 0

    return run


@pytest.fixture
def hook(monkeypatch):
    """Do something at the beginning of a call of `where.name`, once `when(self)`."""
    def hook(where, name, do, when=lambda *args: True):
        plain, waiting = getattr(where, name), [do]

        def hooked(*args, **kwargs):
            if waiting and when(*args):
                waiting.pop()()
            return plain(*args, **kwargs)

        monkeypatch.setattr(where, name, hooked)

    return hook


def tell(number=signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def at(step):
    return lambda trainer, *args: trainer.state.global_step == step


def weights(folder) -> dict[str, torch.Tensor]:
    return {f"{path.name}:{key}": value for path in sorted((folder / "model").rglob("*.safetensors"))
            for key, value in load_file(path).items()}


def same(found, expected) -> bool:
    return found.keys() == expected.keys() != set() and all(torch.equal(found[key], expected[key]) for key in found)


def steps(folder) -> list[int]:
    return [int(path.name.partition("-")[2]) for path in complete_checkpoints(folder)]


@pytest.mark.parametrize(("number", "step"), [(signal.SIGTERM, 0), (signal.SIGUSR1, 2), (signal.SIGTERM, STEPS - 1)])
def test_a_signal_loses_no_step(run, hook, tmp_path, number, step, capfd):
    assert run("plain") == 0
    hook(KdTrainer, "training_step", lambda: tell(number), at(step))
    assert run("told") == STOPPED
    assert steps(tmp_path / "told") == [step + 1] and not (tmp_path / "told/model").exists()
    assert f"stopped at step {step + 1} of {STEPS}, with a checkpoint; start the same command" in capfd.readouterr().err
    assert run("told") == 0
    assert same(weights(tmp_path / "told"), weights(tmp_path / "plain"))


def test_a_second_signal_while_it_saves_changes_nothing(run, hook, tmp_path):
    hook(KdTrainer, "training_step", tell, at(2))
    hook(KdTrainer, "_save_optimizer_and_scheduler", tell)
    hook(saving, "finish_checkpoint", tell)
    assert run("told") == STOPPED
    assert steps(tmp_path / "told") == [3]


def test_an_evaluation_is_left_for_a_checkpoint(run, hook, tmp_path, capfd):
    hook(KdTrainer, "evaluate", lambda: hook(trainer.Batch, "to", tell))
    assert run("told", "--eval_steps", "2") == STOPPED
    assert steps(tmp_path / "told") == [2]
    assert "eval_" not in (tmp_path / "told/checkpoint-2/trainer_state.json").read_text().replace("eval_steps", "")


@pytest.mark.parametrize("where", ["open_caches", "newest_checkpoints"])
def test_before_the_first_step_it_ends_at_once(run, hook, tmp_path, where, capfd):
    hook(phase, where, tell)
    assert run("told") == STOPPED
    assert steps(tmp_path / "told") == []
    assert "stopped by SIGTERM; start the same command again" in capfd.readouterr().err


def test_after_the_last_step_it_ends_at_once_and_the_steps_are_kept(run, hook, tmp_path):
    hook(KdTrainer, "evaluate", tell)
    assert run("told") == STOPPED
    assert steps(tmp_path / "told") == [STEPS] and not (tmp_path / "told/model").exists()
    assert run("told") == 0


def test_handlers_are_ours_for_a_training_only(run):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    assert run("plain") == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before


def test_processes_that_load_data_go_on_until_the_step_is_done(run, hook, tmp_path):
    """A scheduler signals all processes that it finds."""
    def tell_all():
        loading = multiprocessing.active_children()
        assert loading
        for process in loading:
            os.kill(process.pid, signal.SIGTERM)
        tell()

    hook(KdTrainer, "training_step", tell_all, at(1))
    assert run("told", "--num_workers", "1") == STOPPED
    assert steps(tmp_path / "told") == [2]


def test_ctrl_c_ends_at_once_as_before(run, hook, tmp_path, request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    hook(KdTrainer, "training_step", lambda: tell(signal.SIGINT), at(2))
    assert run("told", "--save_steps", "1") == 130
    assert steps(tmp_path / "told") == [1, 2]

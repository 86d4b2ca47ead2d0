"""Processes that train together die, hang, fail and are stopped; the same weights come out, or one message."""

import os
import signal
import subprocess
from pathlib import Path
from types import MappingProxyType

import psutil
import pytest
import torch
from safetensors.torch import load_file

from blspkd.config import TrainConfig
from blspkd.config_file import load_config
from blspkd.errors import STOPPED, ConfigError
from blspkd.training.checkpoint import Split, begun_with, complete_checkpoints
from blspkd.training.run import check_unchanged

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "egs/TEMPLATE/blspkd1/utils/launch.sh"
STEPS = 6
OPTIONS = ["--pad_to_30s", "false", "--adapter_options",
           "{heads: 2, ffn_dim: 32, num_pre_cif_layers: 1, num_post_cif_layers: 1}", "--warmup_steps", "1",
           "--batch_utterances", "1", "--num_workers", "0", "--learning_rate", "3e-3", "--save_steps", "2",
           "--log_steps", "1", "--max_steps", f"{STEPS}", "--plora_rank", "2", "--schedule", "constant"]
# A training in which something happens at the beginning of steps: EVENTS[how often it was started before, rank, step].
HOOKED = """
import os, signal, time
from pathlib import Path
from blspkd.bin.train import main
from blspkd.errors import DataError
from blspkd.training.trainer import KdTrainer

def at_step(self):
    print(f"rank {RANK} begins step {self.state.global_step} as process {os.getpid()}", flush=True)
    EVENTS.get((RESTARTS, RANK, self.state.global_step), int)()

RANK, RESTARTS = int(os.environ.get("RANK", 0)), int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
tell = lambda number: os.kill(os.getpid(), number)

def fail(error):
    raise error

plain = KdTrainer.training_step
KdTrainer.training_step = lambda self, *args, **kwargs: (at_step(self), plain(self, *args, **kwargs))[1]
"""


@pytest.fixture
def start(warm, data_dir, tiny_llm, tiny_encoder, tmp_path):
    """Start launch.sh for tmp_path/<name>; events: (restarts before, rank, step) -> Python code."""
    def start(name, num_procs, events=MappingProxyType({}), extra=(), max_restarts=3):
        module = f"{name}_{len(list(tmp_path.glob('*.py')))}"
        written = ", ".join(f"{place}: lambda: {code}" for place, code in events.items())
        (tmp_path / f"{module}.py").write_text(f"{HOOKED}\nEVENTS = {{{written}}}\nmain()\n")
        return subprocess.Popen(
            [LAUNCH, "--python", warm / "bin/python", "--num_procs", f"{num_procs}", "--max_restarts",
             f"{max_restarts}", module, "--llm", tiny_llm, "--speech_encoder", tiny_encoder, "--train_dir", data_dir,
             "--valid_dir", data_dir, "--output_dir", tmp_path / name, *OPTIONS, *extra],
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, cwd=LAUNCH.parents[1])

    return start


@pytest.fixture
def run(start):
    """The same to its end: exit status and output."""
    def run(*args, **kwargs):
        process = start(*args, **kwargs)
        output = process.communicate(timeout=400)[0]
        assert not any(map(is_running, processes(output))), "orphans"
        return process.returncode, output

    return run


def processes(output: str) -> set[int]:
    return {int(line.split()[-1]) for line in output.splitlines() if line.startswith("rank") and " as process " in line}


def is_running(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{path.name}:{key}": value for path in sorted((folder / "model").rglob("*.safetensors"))
            for key, value in load_file(path).items()}


def assert_same(found: Path, expected: Path, atol: float = 0.0) -> None:
    found, expected = weights(found), weights(expected)
    assert found.keys() == expected.keys() != set()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=atol, msg=key)


def steps(folder: Path) -> list[int]:
    return [int(path.name.partition("-")[2]) for path in complete_checkpoints(folder)]


def test_whichever_process_dies_or_hangs_the_weights_are_the_same(run, tmp_path):
    assert run("plain", 2)[0] == 0
    status, output = run("hurt", 2, {(0, 0, 1): "tell(signal.SIGKILL)", (1, 1, 3): "tell(signal.SIGKILL)",
                                     (2, 1, 5): "tell(signal.SIGSTOP)"}, extra=("--hang_minutes", "0.2"))
    assert status == 0, output[-3000:]
    for rank in (0, 1):
        assert f"rank {rank} ended: Signal 9 (SIGKILL)" in output
    assert "going on from checkpoint-2" in output and "going on from checkpoint-4" in output
    assert "rank 0 of 2 has done nothing for 0.2 minutes (training.hang_minutes) and ends" in output
    assert "in training_step" in output and "rank 0 ended: exit status 1; all start again" in output
    assert output.count("all start again") == 3
    assert_same(tmp_path / "hurt", tmp_path / "plain")


def test_an_error_that_comes_again_ends_after_the_limit_with_its_message(run):
    status, output = run("a", 2, {(n, 1, 1): "fail(RuntimeError('deliberate'))" for n in (0, 1)}, max_restarts=1)
    assert status == 1 and output.count("all start again") == 1
    assert output.splitlines()[-1] == "error: rank 1 ended: RuntimeError: deliberate"


def test_what_only_the_user_can_mend_is_not_tried_again(run):
    status, output = run("a", 2, {(0, 1, 1): "fail(DataError('x.wav: is broken'))"})
    assert status == 1 and "all start again" not in output
    assert "\nerror: x.wav: is broken\n" in output
    assert output.splitlines()[-1] == "error: rank 1 ended: DataError: x.wav: is broken"


@pytest.mark.parametrize(("who", "number", "step"), [(0, "SIGTERM", 1), (1, "SIGUSR1", 3)])
def test_a_signal_to_one_stops_all_and_no_step_is_lost(run, tmp_path, who, number, step):
    status, output = run("told", 2, {(0, who, step): f"tell(signal.{number})"})
    assert status == STOPPED, output[-3000:]
    assert "all start again" not in output and "Traceback" not in output and not (tmp_path / "told/model").exists()
    assert step <= steps(tmp_path / "told")[-1] <= step + 2
    assert output.count("start the same command again") == 1


def test_a_signal_to_the_launcher_reaches_all(start, tmp_path):
    process = start("told", 2, {(0, 0, 2): "time.sleep(1)"})
    for line in process.stdout:
        if line.startswith("rank 0 begins step 2"):
            process.send_signal(signal.SIGTERM)
            break
    rest = process.communicate(timeout=400)[0]
    assert process.returncode == STOPPED, rest
    assert steps(tmp_path / "told")[-1] in (3, 4)


def test_a_mistake_in_the_options_is_not_tried_again(run):
    status, output = run("told", 2, extra=("--init_from", "/nowhere"))
    assert status == 1 and "all start again" not in output
    assert "ended: ModelError: training.init_from: /nowhere: there is no trained model here" in output


def test_an_option_that_is_missing_is_not_tried_again(warm):
    done = subprocess.run([LAUNCH, "--python", warm / "bin/python", "--num_procs", "2", "blspkd.bin.train"],
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
                          cwd=LAUNCH.parents[1], timeout=400)
    assert done.returncode == 1 and "all start again" not in done.stderr, done.stderr
    assert "the following arguments are required: --train_dir, --valid_dir, --output_dir" in done.stderr


@pytest.mark.parametrize(("first", "other", "status"), [
    ("sys.exit(78)", "time.sleep(300)", 1),  # a mistake that only one machine can find
    ("sys.exit(75)", "time.sleep(300)", STOPPED),  # stopped while models are loaded
    ("sys.exit(78)", "time.sleep(3); sys.exit(1)", 1)])
def test_where_one_machine_ends_the_training_the_others_do_not_wait(warm, tmp_path, first, other, status):
    (tmp_path / "work.py").write_text("import os, signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
                                      f"if os.environ['MACHINE'] == '0':\n    {first}\nelse:\n    {other}\n")
    launch = ("import sys; from blspkd.training import agent; agent.LEFT_SECONDS = 2; sys.exit(agent.launch("
              "['--nnodes', '2', '--nproc_per_node', '1', '--max_restarts', '3', '--rdzv_backend', 'c10d', "
              f"'--rdzv_id', 'x', '--rdzv_endpoint', '{tmp_path}/rendezvous', '--rdzv_conf', 'store_type=file', "
              f"'{tmp_path}/work.py']))")
    machines = [subprocess.Popen([warm / "bin/python", "-c", launch], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 text=True, env={**os.environ, "PYTHONPATH": str(ROOT), "MACHINE": str(machine)})
                for machine in (0, 1)]
    outputs = [machine.communicate(timeout=120)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [status, 1], outputs
    assert outputs[1].splitlines()[-1] == "error: another machine has ended the training; its log says why"
    assert "Traceback" not in outputs[1]


def test_ranks_may_change_and_the_weights_are_the_same(run, tmp_path):
    """2 -> 1 -> 2, and 1 -> 2: the accumulation is adapted; 3 ranks cannot share the 2 batches of a step.

    A signal is heeded behind the step before which all ranks have learnt of it.
    """
    epoch, two = ("--max_steps", "-1", "--num_epochs", "1"), ("--gradient_accumulation", "2")
    changed = tmp_path / "changed"
    assert run("plain", 2, extra=epoch)[0] == 0
    assert steps(tmp_path / "plain")[-1] == STEPS
    assert run("changed", 2, {(0, 0, 0): "tell(signal.SIGTERM)"}, epoch)[0] == STOPPED
    assert run("changed", 1, {(0, 0, 3): "tell(signal.SIGTERM)"}, epoch)[0] == STOPPED
    assert steps(changed)[-2:] == [2, 4] and begun_with(changed) == Split(2, 1)
    with pytest.raises(ConfigError, match="2 ranks x .* = 2 batches per step, and now there would be 3 ranks x"):
        check_unchanged(load_config(TrainConfig, changed / "config.yaml"), changed, 3)
    status, output = run("changed", 2, extra=epoch)
    assert status == 0, output[-3000:]
    assert_same(changed, tmp_path / "plain", 1e-5)

    assert run("one", 1, {(0, 0, 2): "tell(signal.SIGTERM)"}, (*epoch, *two))[0] == STOPPED
    status, output = run("one", 2, extra=(*epoch, *two))
    assert status == 0 and "began with 1 rank x gradient_accumulation 2 = 2 batches per step, now there are 2" in output
    assert_same(tmp_path / "one", tmp_path / "plain", 1e-5)

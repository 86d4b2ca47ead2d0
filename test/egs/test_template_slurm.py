"""utils/slurm.py on a Slurm of two nodes that the tests start here, and what of it needs none."""

import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

UTILS = Path(__file__).parents[2] / "egs" / "TEMPLATE" / "blspkd1" / "utils"
SLURM = UTILS / "slurm.py"
# Counts to TOTAL, ten steps a second, and keeps the contract of a training: a signal -> save, status 75.
COUNTER = """
import os, signal, sys, time
told = []
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda *_: told.append(1))
path, total = sys.argv[1], int(sys.argv[2])
step = int(open(path).read()) if os.path.exists(path) else 0
print("start at", step, flush=True)
while step < total:
    time.sleep(0.1)
    step += 1
    if told:
        open(path, "w").write(str(step))
        print("saved at", step, flush=True)
        sys.exit(75)
print("finished at", step)
"""


def wait_for(condition, seconds=240):  # a busy machine is no failure
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return answer


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def start(slurm, tmp_path):
    """Start slurm.py; what is left of it at the end is ended."""
    started = []

    def call(*words, **variables):
        process = subprocess.Popen([sys.executable, SLURM, *map(str, words)], cwd=tmp_path, env={**slurm, **variables},
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   # tests that run in the background of a shell have inherited that SIGINT is ignored
                                   preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate()


@pytest.fixture
def run(start):
    def call(*words, **variables):
        process = start(*words, **variables)
        output, errors = process.communicate(timeout=300)
        return subprocess.CompletedProcess(words, process.returncode, output, errors)

    return call


@pytest.fixture
def ask(slurm):
    """A command of Slurm; its output."""
    return lambda *words: subprocess.run(words, env=slurm, capture_output=True, text=True, check=True).stdout


def job_number(tmp_path, name) -> int:
    file = tmp_path / "log" / "slurm" / f"{name}.id"
    return int(wait_for(lambda: file.exists() and file.read_text().strip()))


def is_idle(ask) -> bool:
    return not ask("squeue", "--noheader")


WORDS = ["part.JOB", "a  b", ";", "|", "$(touch ran)", "`touch ran`", "a\nb", "a\r\n#SBATCH --bad", "it's", "\\", '"',
         "*", "", "~", "JOBS", "ö", "\x01'\\1"]


def test_every_job_gets_its_number_its_log_and_its_words(run, tmp_path):
    code = "import json, os, sys; print(json.dumps([*sys.argv[1:], os.environ['SLURMD_NODENAME']]))"
    result = run("--num_threads", 2, "--max_jobs_run", 2, "JOB=2:4", "log/x.JOB.log", sys.executable, "-c", code,
                 *WORDS)
    assert result.returncode == 0, result.stderr
    assert re.search(r"\(slurm.py\) 3 jobs done in \d+ s: log/x\.\*\.log", result.stdout)
    for number in 2, 3, 4:
        lines = (tmp_path / f"log/x.{number}.log").read_text().splitlines()
        words = next(json.loads(line) for line in lines if line.startswith('["part'))
        assert words[:-1] == [f"part.{number}", *WORDS[1:]] and words[-1] in ("n1", "n2")
        assert lines[-1].startswith("# Ended (code 0) at ")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "log/slurm/x.JOB.id").exists()


def test_no_more_jobs_run_than_the_limit_says(run):
    """A job fails if it meets another one."""
    assert run("--max_jobs_run", 1, "JOB=1:2", "x.JOB.log", "bash", "-c", "mkdir here && sleep 0.3 && rmdir here"
               ).returncode == 0


def test_a_job_sees_the_gpus_that_slurm_gave_it_and_no_others(run, tmp_path):
    for number, expected in (2, "0,1"), (0, ""):
        assert run("--gpu", number, f"{number}.log", "bash", "-c", "echo gpus=$CUDA_VISIBLE_DEVICES=").returncode == 0
        assert f"\ngpus={expected}=\n" in (tmp_path / f"{number}.log").read_text()


def test_failure_shows_log_and_a_command_that_runs_the_job_again(run, tmp_path):
    body = "for i in $(seq 50); do echo line $i; done; test -e 'go on' || exit 3"
    result = run("--max_jobs_run", 1, "JOB=1:3", "log/x.JOB.log", "bash", "-c", f"[ JOB = 1 ] || {{ {body}; }}")
    assert result.returncode == 1
    assert "slurm.py: job 2 failed: exit status 3" in result.stderr
    assert "line 21\n" in result.stderr and "line 20\n" not in result.stderr
    assert "log:   log/x.2.log" in result.stderr
    assert "not started: job 3" in result.stderr and not (tmp_path / "log/x.3.log").exists()
    rerun = re.search("^rerun: (.*)$", result.stderr, re.MULTILINE)[1]
    assert subprocess.run(["bash", "-c", rerun], capture_output=True).returncode == 3
    (tmp_path / "go on").touch()
    assert subprocess.run(["bash", "-c", rerun], capture_output=True).returncode == 0


@pytest.mark.parametrize("keep_going", [False, True])
def test_a_job_that_slurm_starts_after_a_failure_ends_at_once(tmp_path, monkeypatch, keep_going):
    """Slurm starts it before anybody could take it out of the queue."""
    (tmp_path / "x.sh").write_text("touch ran.$1; [ $1 = 3 ] || exit 4\n")
    words = [sys.executable, UTILS / "runner" / "attempt.py", "x.sh", "x.JOB", "--nodes", "1", "--first", "1",
             "--requeues", "1", "--retries", "1", *(["--keep_going"] if keep_going else [])]
    statuses = [subprocess.run(words, cwd=tmp_path, env={**os.environ, "SLURM_ARRAY_TASK_ID": str(number)}).returncode
                for number in (2, 3)]
    monkeypatch.syspath_prepend(UTILS)
    RemoteJob = importlib.import_module("runner.remote_job").RemoteJob
    jobs = [RemoteJob(number, "x.log", ["true"], tmp_path / f"x.JOB.{number}.attempts", tmp_path / "x.out")
            for number in (2, 3)]
    for job in jobs:
        job.look(False)
    assert statuses == ([4, 0] if keep_going else [4, 1])
    assert (tmp_path / "ran.3").exists() == keep_going
    assert [(job.status, job.dropped) for job in jobs] == [(4, False), (0, False) if keep_going else (None, True)]


def test_keep_going_starts_what_waits_behind_a_failure(run, tmp_path):
    result = run("--keep_going", "true", "--max_jobs_run", 1, "JOB=1:3", "x.JOB.log", "bash", "-c",
                 "touch ran.JOB; [ JOB -ne 1 ]")
    assert result.returncode == 1 and "x.1.log" in result.stderr
    assert (tmp_path / "ran.3").exists()


def test_lines_and_memory_of_the_jobs_are_told(run, tmp_path):
    code = "import time; block = bytearray(80 << 20); time.sleep(0.3); print('said')"
    result = run("--screen", "true", "x.log", sys.executable, "-c", code, BLSPKD_PEAK_FILE=str(tmp_path / "peak"))
    assert result.stdout.splitlines()[0] == "said"
    assert 80 <= int((tmp_path / "peak").read_text()) < 400


def test_an_option_that_slurm_does_not_know_is_one_message(run):
    result = run("--no_such_option", "1", "x.log", "true")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "sbatch: unrecognized option '--no-such-option=1'" in result.stderr


def test_a_killed_job_starts_again_and_its_neighbour_does_not(run, tmp_path):
    """The last task of an array has the number of the array."""
    body = "echo x >> tries.JOB; [ JOB = 1 ] || [ $(wc -l < tries.2) -gt 1 ] || kill -9 $$"
    result = run("JOB=1:2", "log/x.JOB.log", "bash", "-c", body)
    assert result.returncode == 0, result.stderr
    assert [(tmp_path / f"tries.{job}").read_text().count("x") for job in (1, 2)] == [1, 2]
    assert (tmp_path / "log/slurm/x.JOB.2.attempts").read_text() == "137 again\n0 ended\n"
    assert re.search(r"# Ended \(code -9\).*# Ended \(code 0\)", (tmp_path / "log/x.2.log").read_text(), re.DOTALL)


def test_a_job_is_not_started_again_for_ever(run, tmp_path):
    result = run("--retries", 1, "x.log", "bash", "-c", "echo x >> tries; kill -9 $$")
    assert result.returncode == 128 + signal.SIGKILL
    assert "job 1 failed: killed by SIGKILL (out of memory?)" in result.stderr
    assert (tmp_path / "tries").read_text().count("x") == 2


def test_a_job_that_died_with_all_of_slurm_s_processes_starts_again(start, tmp_path):
    """As when a node fails: nobody is left there to say so."""
    process = start("JOB=1:2", "x.JOB.log", "bash", "-c", "[ JOB = 1 ] || [ -e pid ] || { echo $$ > pid; sleep 60; }")
    pid = int(wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    ancestors = [pid]
    while "attempt.py" not in Path(f"/proc/{ancestors[-1]}/cmdline").read_text():
        ancestors.append(int(Path(f"/proc/{ancestors[-1]}/stat").read_text().rpartition(")")[2].split()[1]))
    for ancestor in reversed(ancestors):  # run.py would see to its jobs
        os.kill(ancestor, signal.SIGKILL)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "job 2 was ended by Slurm (FAILED); it starts again" in output


@pytest.mark.parametrize("status, warned, goes_on", [(75, False, True), (1, True, True), (1, False, False),
                                                     (0, True, True)])
def test_what_goes_back_into_the_queue(start, ask, tmp_path, status, warned, goes_on):
    """A program that can go on later, and any that failed after it was told that time is up; nothing that is done."""
    body = f"trap 'exit {status}' TERM; echo x >> tries; [ $(wc -l < tries) = 1 ] || exit 0; " + (
        "touch ready; while :; do sleep 0.1; done" if warned else f"exit {status}")
    process = start("log/x.log", "bash", "-c", body)
    if warned:
        wait_for((tmp_path / "ready").exists)
        ask("scancel", "--batch", "--signal=USR1", str(job_number(tmp_path, "x")))
    assert process.communicate(timeout=240) and process.returncode == (0 if goes_on else 1)
    assert (tmp_path / "tries").read_text().count("x") == (2 if goes_on and status else 1)


def test_before_the_time_limit_a_job_saves_and_goes_on_in_the_queue(run, tmp_path):
    """With a real time limit: Slurm looks for those every 30 s, and its shortest is a minute."""
    (tmp_path / "counter.py").write_text(COUNTER)
    result = run("--time", 1, "--signal", "B:USR1@50", "x.log", sys.executable, "counter.py", "count", 400)
    assert result.returncode == 0, result.stderr
    assert "goes back into the queue, to go on there" in result.stdout
    text = (tmp_path / "x.log").read_text()
    saved = re.findall(r"^saved at (\d+)$", text, re.MULTILINE)
    assert saved and re.findall(r"^start at (\d+)$", text, re.MULTILINE) == ["0", *saved]
    assert re.search(r"^finished at 400$", text, re.MULTILINE)


LONG = "setsid sleep 300 & echo $! > child.JOB; echo $$ > job.JOB; wait"


def processes(folder) -> list[int]:
    files = [folder / f"{what}.{job}" for what in ("child", "job") for job in (1, 2)]
    wait_for(lambda: all(file.exists() and file.read_text().strip() for file in files))
    return [int(file.read_text()) for file in files]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_job_outlives_the_one_who_waits_for_it(start, ask, tmp_path, number):
    process = start("JOB=1:2", "log/x.JOB.log", "bash", "-c", LONG)
    pids = processes(tmp_path)
    assert all(map(is_running, pids))
    process.send_signal(number)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert number == signal.SIGKILL or f"(slurm.py) stopped by {signal.Signals(number).name}" in errors
    wait_for(lambda: not any(map(is_running, pids)) and is_idle(ask))


@pytest.mark.parametrize("name", ["JOB", "NODE"])
def test_scancel_leaves_nothing_and_nothing_comes_back(start, ask, tmp_path, name):
    """Also not a program that saves and says with 75 that it can go on later."""
    body = LONG.replace("wait", "trap 'sleep 2; touch saved.JOB; exit 75' TERM; while :; do sleep 0.1; done")
    options = ["--max_jobs_run", 2] if name == "JOB" else []
    process = start(*options, f"{name}=1:{3 if name == 'JOB' else 2}", f"log/x.{name}.log", "bash", "-c",
                    body.replace("JOB", name))
    pids = processes(tmp_path)
    ask("scancel", str(job_number(tmp_path, f"x.{name}")))
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 75 and "job 1 was told to stop, cancelled in Slurm (scancel); the same" in errors
    assert ("not started: job 3" in errors) == (name == "JOB")
    wait_for(lambda: not any(map(is_running, pids)) and is_idle(ask))
    assert not list(tmp_path.glob("log/slurm/*.attempts")) and len(list(tmp_path.glob("saved.*"))) == 2


def test_a_job_that_was_cancelled_while_it_waited_is_a_failure(start, ask, tmp_path):
    body = "until [ -e done ]; do sleep 0.1; done"
    process = start("--max_jobs_run", 1, "JOB=1:2", "log/x.JOB.log", "bash", "-c", body)
    wait_for((tmp_path / "log/x.1.log").exists)
    ask("scancel", f"{job_number(tmp_path, 'x.JOB')}_2")
    (tmp_path / "done").touch()
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 1 and "job 2 failed: cancelled in Slurm (scancel)" in errors


def test_jobs_that_nobody_waits_for_are_found_by_the_same_command(start, ask, tmp_path):
    """As after the death of the machine that submitted them, where nobody was left to cancel them."""
    words = ["log/x.log", "bash", "-c", "echo x >> tries; while [ ! -e done ]; do sleep 0.1; done"]
    process = start(*words)
    number = job_number(tmp_path, "x")
    wait_for((tmp_path / "tries").exists)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (*map(int, children), process.pid):  # the watchdog first
        os.kill(pid, signal.SIGKILL)
    again = start(*words)
    wait_for((tmp_path / "log/x.log").exists)
    time.sleep(1)
    (tmp_path / "done").touch()
    output, errors = again.communicate(timeout=240)
    assert again.returncode == 0 and f"waiting for x, in the queue as {number}" in output, errors
    assert (tmp_path / "tries").read_text() == "x\n"


def test_other_jobs_of_that_log_are_cancelled_first(start, run, ask, tmp_path):
    process = start("log/x.log", "bash", "-c", "touch started; sleep 60")
    number = job_number(tmp_path, "x")
    wait_for((tmp_path / "started").exists)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (*map(int, children), process.pid):
        os.kill(pid, signal.SIGKILL)
    assert run("log/x.log", "echo", "something else").returncode == 0
    assert ask("squeue", "--noheader", "--states=all", f"--jobs={number}", "--format=%T").strip() == "CANCELLED"


OPTIONS = ["--pad_to_30s", "false", "--adapter_options",
           "{heads: 2, ffn_dim: 32, num_pre_cif_layers: 1, num_post_cif_layers: 1}", "--warmup_steps", "1",
           "--batch_utterances", "2", "--num_workers", "0", "--learning_rate", "3e-3", "--log_steps", "10"]


def test_a_training_on_two_machines_goes_on_when_it_was_requeued(start, ask, warm, data_dir, tiny_llm, tiny_encoder,
                                                                 tmp_path):
    """Its processes meet again, in a file of their own attempt, and nothing is lost but steps since a checkpoint."""
    def words(folder):
        return ["NODE=1:2", f"{folder}/train.NODE.log", UTILS / "launch.sh", "--python", warm / "bin/python",
                "--num_nodes", 2, "--rendezvous", f"{folder}/rendezvous", "blspkd.bin.train", "--llm", tiny_llm,
                "--speech_encoder", tiny_encoder, "--train_dir", data_dir, "--valid_dir", data_dir, "--output_dir",
                folder, "--max_steps", 60, "--save_steps", 4, *OPTIONS]

    path = {"PYTHONPATH": str(UTILS.parents[3])}
    process = start(*words("log"), **path)
    wait_for(lambda: list((tmp_path / "log").glob("checkpoint-*/manifest.json")))
    ask("scancel", "--batch", "--signal=USR1", str(job_number(tmp_path, "train.NODE")))
    output, errors = process.communicate(timeout=300)
    logs = "".join((tmp_path / f"log/train.{node}.log").read_text() for node in (1, 2))
    assert process.returncode == 0, errors + logs
    assert "job 1 goes back into the queue, to go on there" in output
    assert re.search(r"going on from checkpoint-\d+", logs)
    assert len(list(tmp_path.glob("log/rendezvous.*"))) == 2
    done = subprocess.run([sys.executable, UTILS / "run.py", "--max_jobs_run", "2", *map(str, words("at_once"))],
                          cwd=tmp_path, env={**os.environ, **path}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    model = "model/adapter.safetensors"
    assert (tmp_path / "log" / model).read_bytes() == (tmp_path / "at_once" / model).read_bytes()


def test_a_failure_of_one_of_two_machines_is_told_with_its_log(run):
    result = run("NODE=1:2", "x.NODE.log", "bash", "-c", "echo on $SLURMD_NODENAME; [ NODE = 1 ]")
    assert result.returncode == 1
    assert "job 2 failed: exit status 1; its last lines:\non n2\n\nlog:   x.2.log" in result.stderr


# What needs no Slurm.

@pytest.mark.parametrize("words, complaint", [
    (["x.log"], "usage: slurm.py"),
    (["JOB=1:2", "x.log", "true"], "put JOB into its name"),
    (["--max_jobs_run", "many", "JOB=1:2", "x.JOB.log", "true"], "--max_jobs_run many: not a whole number"),
    (["--retries", "-1", "x.log", "true"], "--retries -1: not a whole number"),
    (["--array", "1-9", "x.log", "true"], "--array 1-9: slurm.py sets this itself"),
    (["x.log", "true"], "sbatch is not there; on a machine without Slurm, cmd.sh names utils/run.py"),
])
def test_mistakes_are_told(tmp_path, words, complaint):
    result = subprocess.run([sys.executable, SLURM, *words], cwd=tmp_path, capture_output=True, text=True,
                            env={**os.environ, "PATH": str(tmp_path)})
    assert result.returncode == 1
    assert complaint in result.stderr and "Traceback" not in result.stderr


STAND_IN = """#!/bin/bash
case $0 in
    */sbatch) printf '%s\\n' "$@" > sbatch.words; env > sbatch.env; echo 7 ;;
    */squeue) if [ -n "$STATE" ]; then echo "N/A|$STATE|"; exit; fi
              echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1 ;;
    */scontrol) echo "$@" >> scontrol.words ;;
esac
"""


@pytest.fixture
def submitted(tmp_path):
    """Call slurm.py with stand-ins for Slurm's commands that forget every job; words and environment of sbatch."""
    for name in ("sbatch", "squeue", "scancel", "scontrol"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(STAND_IN)
        (tmp_path / "bin" / name).chmod(0o755)

    def call(*words, **variables):
        done = subprocess.run([sys.executable, SLURM, *words], cwd=tmp_path, capture_output=True, text=True,
                              env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", **variables})
        assert done.returncode == 1 and variables.get("TOLD", "Slurm knows it no more") in done.stderr, done.stderr
        return ((tmp_path / "sbatch.words").read_text().splitlines(),
                dict(line.split("=", 1) for line in (tmp_path / "sbatch.env").read_text().splitlines() if "=" in line))

    return call


def test_sbatch_gets_the_options_of_a_site_and_nothing_of_the_job_around_us(submitted):
    given = {"SLURM_JOB_ID": "3", "SLURM_CPUS_PER_TASK": "9", "SLURM_CONF": "there", "BLSPKD_PID": "1",
             "SBATCH_ACCOUNT": "a"}
    words, environment = submitted(
        "--partition=gpu-a", "--time", "8:00:00", "-A", "account", "--exclusive", "true", "--gpu", "2", "--num-threads",
        "3", "--max-jobs-run=2", "--signal", "B:USR1@300", "JOB=1:5", "log/x.JOB.log", "true", **given)
    assert {"--partition=gpu-a", "--time=8:00:00", "--exclusive", "--gres=gpu:2", "--cpus-per-task=3", "--array=1-5%2",
            "--requeue"} <= set(words)
    assert words[words.index("-A") + 1] == "account" and words[-1] == "log/slurm/x.JOB.sh"
    assert [word for word in words if word.startswith("--signal")] == ["--signal=B:USR1@120", "--signal=B:USR1@300"]
    assert {name: environment[name] for name in given if name in environment} == {"SLURM_CONF": "there",
                                                                                  "SBATCH_ACCOUNT": "a"}


@pytest.mark.parametrize("state, told, again", [
    ("TIMEOUT", "the time limit came before it had saved its work; --signal B:USR1@600 warns it earlier", 2),
    ("NODE_FAIL", "Slurm says NODE_FAIL", 2), ("OUT_OF_MEMORY", "out of memory; --mem asks for more", 0)])
def test_ends_that_slurm_makes_are_tried_again_where_that_helps_and_told(submitted, tmp_path, state, told, again):
    submitted("x.log", "true", STATE=state, TOLD=told)
    requeues = tmp_path / "scontrol.words"
    assert (requeues.read_text() if again else "") == "requeue 7\n" * again and requeues.exists() == bool(again)


def test_the_bar_of_a_job_comes_from_what_run_py_says_on_its_node(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(UTILS)
    job = importlib.import_module("runner.remote_job").RemoteJob(
        1, tmp_path / "x.log", ["true"], tmp_path / "x.attempts", tmp_path / "x.out")
    assert job.look(echo=False) == 0 and job.output is None
    bar = "decode:  30%|###       | 3/10 [00:01<00:02,  2.0it/s]"
    (tmp_path / "x.out").write_text(f"2026-01-31T12:00:00 (run.py) earlier\n2026-01-31T12:00:30 (run.py) {bar}\n")
    (tmp_path / "x.attempts").write_text("75 again\n")
    assert job.look(echo=False) == 1 and job.output.bar == bar and not job.over
    (tmp_path / "x.attempts").write_text("75 again\n137 ended\n")
    assert job.look(echo=False) == 0 and job.status == -signal.SIGKILL


def test_the_batch_script_runs_its_jobs_by_hand(submitted, tmp_path):
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"
    submitted("JOB=1:5", "log/x.JOB.log", sys.executable, "-c", code, *WORDS)
    script = tmp_path / "log/slurm/x.JOB.sh"
    assert all(not line.startswith("#SBATCH") for line in script.read_text().splitlines())
    assert subprocess.run(["bash", script, "4"], cwd="/", capture_output=True).returncode == 0
    assert f"\n{json.dumps(['part.4', *WORDS[1:]])}\n" in (tmp_path / "log/x.4.log").read_text()
    assert not (tmp_path / "ran").exists()
    resubmit = re.search(r"^#   sbatch (.*)$", script.read_text(), re.MULTILINE)[1]
    assert shlex.split(resubmit) == (tmp_path / "sbatch.words").read_text().splitlines()[1:]  # but --parsable


OWNER = """
import os, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
import slurm_cluster
with slurm_cluster.cluster() as conf:
    subprocess.run(["sbatch", "--output=out", "--wrap", "setsid sleep 300 & echo $! > pid; wait"],
                   env={**os.environ, "SLURM_CONF": str(conf), "PATH": slurm_cluster.PATHS})
    print(conf.parent, flush=True)
    time.sleep(60)
"""


def test_nothing_is_left_of_the_tests_own_slurm_when_a_test_is_killed(slurm, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", OWNER, Path(__file__).parents[1]], cwd=tmp_path,
                               stdout=subprocess.PIPE, text=True)
    folder = next(line.strip() for line in process.stdout if "slurm-" in line)
    pid = int(wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    daemons = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ")
               if f"SLURM_CONF={folder}/slurm.conf".encode() in readable(path)]
    assert len(daemons) >= 4 and is_running(pid)
    process.kill()
    process.communicate()
    wait_for(lambda: not is_running(pid) and not any(map(is_running, daemons)) and not Path(folder).exists())


def readable(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""

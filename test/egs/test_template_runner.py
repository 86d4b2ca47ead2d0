"""utils/run.py: parallel jobs with logs, progress, reports of failures, and no orphans."""

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "egs" / "TEMPLATE" / "blspkd1" / "utils" / "run.py"
BARS = """
import sys, time
for n in range(0, 101, 10):
    sys.stderr.write(f"\\rwork:  {n:3d}%|####      | {n}/100 [00:01<00:02, 9.9it/s]")
    sys.stderr.flush()
    time.sleep(0.1)
sys.stderr.write("\\n")
print("said")
"""


@pytest.fixture
def run(tmp_path):
    def call(*words, **options):
        return subprocess.run([sys.executable, RUN, *map(str, words)], cwd=tmp_path, capture_output=True, text=True,
                              timeout=30, **options)

    return call


def wait_for(condition, seconds=60):  # a busy machine is no failure
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def is_running(pid):
    """Zombies do not count: an orphan's parent may be slow to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_every_job_gets_its_number_and_its_log(run, tmp_path):
    result = run("JOB=2:4", "log/x.JOB.log", "echo", "part", "JOB", "a  b", "*")
    assert result.returncode == 0
    assert "3 jobs done" in result.stdout
    for number in 2, 3, 4:
        lines = (tmp_path / f"log/x.{number}.log").read_text().splitlines()
        assert lines[0] == f"# echo part {number} 'a  b' '*'"
        assert lines[1].startswith("# Started on ")
        assert f"part {number} a  b *" in lines
        assert re.match(r"# Accounting: time=[\d.]+ threads=1 peak_memory=\d+ MiB", lines[-2])
        assert lines[-1].startswith("# Ended (code 0) at ")


@pytest.mark.parametrize("word", [";", "|", ">", "&&", "$(touch ran)", "`touch ran`", "a\nb", "it's", '"', "*", ""])
def test_arguments_reach_the_command_as_they_are(run, tmp_path, word):
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"
    result = run("x.log", sys.executable, "-c", code, word, "touch", "ran")
    assert result.returncode == 0
    assert f"\n{json.dumps([word, 'touch', 'ran'])}\n" in (tmp_path / "x.log").read_text()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("word, expected", [
    ("JOB", "7"), ("part.JOB", "part.7"), ("a/JOB.log", "a/7.log"), ("--job=JOB", "--job=7"), ("JOBS", "JOBS"),
    ("MY_JOB", "MY_JOB"), ("exp/JOBexp", "exp/JOBexp"), ("1JOB", "1JOB"),
])
def test_the_number_stands_where_its_name_is_a_word(run, tmp_path, word, expected):
    assert run("JOB=7:7", "x.log", "echo", word).returncode == 0
    assert f"\n{expected}\n" in (tmp_path / "x.log").read_text()


def test_a_log_on_a_full_disk_is_one_message(run):
    result = run("/dev/full", "echo", "said")
    assert result.returncode == 1
    assert re.fullmatch(r"run.py: /dev/full: No space left on device \(\d+ MB free\); free some space and start the "
                        r"same command again\n", result.stderr)


@pytest.mark.parametrize("options", [
    ["--gpu", "0"], ["--mem", "4G"], ["--num-threads", "1"], ["--max_jobs_run", "1"], ["-l", "x=y"], ["-V"],
    ["--max-jobs-run=2", "--time", "1:00"],
])
def test_options_of_clusters_are_accepted(run, options):
    assert run(*options, "JOB=1:2", "x.JOB.log", "true").returncode == 0


@pytest.mark.parametrize("words, complaint", [
    (["x.log"], "usage"),
    (["JOB=1:2", "x.log", "true"], "put JOB into its name"),
    (["JOB=1:2", "JOBS.log", "true"], "put JOB into its name"),
    (["JOB=2:1", "x.JOB.log", "true"], "the last job comes before the first"),
    (["--max_jobs_run", "many", "x.log", "true"], "--max_jobs_run many: not a whole number"),
    (["--gpu", "1000", "x.log", "true"], "--ngpu 0 runs on the CPU"),
])
def test_mistakes_are_told(run, words, complaint):
    result = run(*words)
    assert result.returncode == 1
    assert complaint in result.stderr


def test_jobs_run_side_by_side(run):
    """Each of three jobs ends only when all have started."""
    body = "touch started.JOB; while [ $(ls started.* | wc -l) -lt 3 ]; do sleep 0.05; done"
    assert run("--max_jobs_run", 3, "JOB=1:3", "x.JOB.log", "bash", "-c", body).returncode == 0


def test_no_more_jobs_run_than_the_limit_says(run):
    """A job fails if it meets another one."""
    body = "mkdir here && sleep 0.1 && rmdir here"
    assert run("--max_jobs_run", 1, "JOB=1:3", "x.JOB.log", "bash", "-c", body).returncode == 0


def test_gpus_are_shared_out(run, tmp_path):
    words = ["--gpu", 1, "--max_jobs_run", 2, "JOB=1:2", "x.JOB.log", "bash", "-c", "echo gpu=$CUDA_VISIBLE_DEVICES"]
    assert run(*words, env={**os.environ, "CUDA_VISIBLE_DEVICES": "5,7"}).returncode == 0
    used = {re.search("^gpu=(.*)$", (tmp_path / f"x.{n}.log").read_text(), re.MULTILINE)[1] for n in (1, 2)}
    assert used == {"5", "7"}


def test_failure_shows_log_and_a_command_that_runs_the_job_again(run, tmp_path):
    body = "for i in $(seq 50); do echo line $i; done; test -e 'go on' || exit 3"
    result = run("--max_jobs_run", 1, "JOB=1:3", "log/x.JOB.log", "bash", "-c", f"[ JOB = 1 ] || {{ {body}; }}")
    assert result.returncode == 1
    assert "job 2 failed: exit status 3" in result.stderr
    assert "line 21\n" in result.stderr and "line 20\n" not in result.stderr
    assert "log:   log/x.2.log" in result.stderr
    assert "not started: job 3" in result.stderr
    rerun = re.search("^rerun: (.*)$", result.stderr, re.MULTILINE)[1]
    assert rerun.startswith(f"cd {shlex.quote(str(tmp_path))} && ")
    assert subprocess.run(["bash", "-c", rerun], capture_output=True).returncode == 3
    (tmp_path / "go on").touch()
    assert subprocess.run(["bash", "-c", rerun], capture_output=True).returncode == 0


def test_command_that_is_not_there_is_a_failed_job(run):
    result = run("x.log", "no_such_command")
    assert result.returncode == 1
    assert "cannot start no_such_command" in result.stderr


def test_log_of_a_failed_attempt_is_kept_above_the_next(run, tmp_path):
    run("x.log", "bash", "-c", "echo first; exit 1")
    run("x.log", "echo", "second")
    assert re.search("first.*# Ended .code 1.*second.*# Ended .code 0.", (tmp_path / "x.log").read_text(), re.DOTALL)
    run("x.log", "echo", "third")
    assert "first" not in (tmp_path / "x.log").read_text()


def test_log_keeps_only_the_last_state_of_a_bar(run, tmp_path):
    result = run("--screen", "true", "x.log", sys.executable, "-c", BARS)
    text = (tmp_path / "x.log").read_text()
    assert "\r" not in text
    assert re.findall(r"^work: +(\d+)%", text, re.MULTILINE) == ["100"]
    assert "\nsaid\n" in text
    assert result.stdout.splitlines()[1] == "said"


def test_terminal_shows_one_live_line_for_all_jobs(tmp_path):
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, RUN, "--max_jobs_run", "2", "JOB=1:2", "x.JOB.log", sys.executable,
                                "-c", BARS], cwd=tmp_path, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(ours, 4096)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        shown += data
    os.close(ours)
    assert process.wait() == 0
    assert re.search(r"\rwork: +\d+%\|[# ]+\| 2 running, 0 of 2 done \[00:0\d<00:0\d\]", shown.decode())
    assert "2 jobs done" in shown.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_job_outlives_the_runner(tmp_path, number):
    body = "sleep 60 & echo $! > child.JOB; echo $$ > job.JOB; wait"
    process = subprocess.Popen([sys.executable, RUN, "--max_jobs_run", "2", "JOB=1:2", "x.JOB.log", "bash", "-c", body],
                               cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               # tests that run in the background of a shell have inherited that SIGINT is ignored
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    files = [tmp_path / f"{what}.{job}" for what in ("child", "job") for job in (1, 2)]
    wait_for(lambda: all(file.exists() and file.read_text().strip() for file in files))
    pids = [int(file.read_text()) for file in files]
    assert all(map(is_running, pids))
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert number == signal.SIGKILL or f"stopped by {signal.Signals(number).name}" in errors
    wait_for(lambda: not any(map(is_running, pids)))


def test_a_job_that_was_told_to_stop_is_no_failure_and_nothing_new_starts(run, tmp_path):
    result = run("--keep_going", "true", "--max_jobs_run", 1, "JOB=1:3", "x.JOB.log", "bash", "-c",
                 "touch ran.JOB; [ JOB = 1 ] && exit 1; exit 75")
    assert result.returncode == 75
    assert "job 1 failed: exit status 1" in result.stderr
    assert "job 2 was told to stop; the same command goes on later: x.2.log" in result.stderr
    assert "job 2 failed" not in result.stderr and not (tmp_path / "ran.3").exists()


def test_a_job_has_time_to_write_a_checkpoint_also_below_another_runner(tmp_path):
    """As stage 5 starts trainings."""
    body = "trap 'sleep 1; touch saved; exit 75' TERM; touch begun; while true; do sleep 0.1; done"
    script = f"{shlex.quote(str(RUN))} y.log bash -c {shlex.quote(body)}; true"
    process = subprocess.Popen([sys.executable, RUN, "x.log", "bash", "-c", script], cwd=tmp_path,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (tmp_path / "begun").exists())
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGUSR1 and (tmp_path / "saved").exists()


def test_who_is_told_twice_ends_jobs_at_once(tmp_path):
    body = "trap '' TERM; echo $$ > begun; while true; do sleep 0.1; done"
    process = subprocess.Popen([sys.executable, RUN, "x.log", "bash", "-c", body], cwd=tmp_path,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (tmp_path / "begun").exists() and (tmp_path / "begun").read_text().strip())
    process.send_signal(signal.SIGTERM)
    for line in process.stderr:
        if "a training writes a checkpoint first (a second time: at once)" in line:
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert not is_running(int((tmp_path / "begun").read_text()))


def test_jobs_end_with_the_recipe_that_started_them(tmp_path):
    (tmp_path / "recipe.sh").write_text(f"export BLSPKD_PID=$$\n{RUN} x.log bash -c 'echo $$ > job; sleep 60'\n:\n")
    process = subprocess.Popen(["bash", "recipe.sh"], cwd=tmp_path)
    wait_for(lambda: (tmp_path / "job").exists() and (tmp_path / "job").read_text().strip())
    process.kill()
    process.wait()
    wait_for(lambda: not is_running(int((tmp_path / "job").read_text())))


def test_what_a_job_leaves_running_is_stopped(run, tmp_path):
    assert run("x.log", "bash", "-c", "sleep 60 & echo $! > child; echo done").returncode == 0
    wait_for(lambda: not is_running(int((tmp_path / "child").read_text())))


def test_peak_memory_is_told_to_the_stage(run, tmp_path):
    code = "import time; block = bytearray(80 << 20); time.sleep(0.3)"
    run("--max_jobs_run", 2, "JOB=1:2", "x.JOB.log", sys.executable, "-c", code,
        env={**os.environ, "BLSPKD_PEAK_FILE": str(tmp_path / "peak")})
    assert 80 <= int((tmp_path / "peak").read_text()) < 400


def test_keep_going_starts_what_waits_behind_a_failure(run, tmp_path):
    result = run("--keep_going", "true", "--max_jobs_run", 1, "JOB=1:3", "x.JOB.log", "bash", "-c",
                 "touch ran.JOB; [ JOB -ne 1 ]")
    assert result.returncode == 1 and "x.1.log" in result.stdout + result.stderr
    assert (tmp_path / "ran.3").exists()


def test_a_training_keeps_few_of_onednn_s_primitives_unless_told_otherwise(tmp_path):
    (tmp_path / "python").write_text('#!/bin/sh\necho "$ONEDNN_PRIMITIVE_CACHE_CAPACITY $OMP_NUM_THREADS $*"\n')
    (tmp_path / "python").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "ONEDNN_PRIMITIVE_CACHE_CAPACITY"}
    for given, expected in (({}, "16"), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "900"}, "900")):
        done = subprocess.run([RUN.with_name("launch.sh"), "--python", tmp_path / "python", "module"], text=True,
                              capture_output=True, check=True, cwd=RUN.parents[1], env=environment | given)
        assert done.stdout == f"{expected} 1 -m module\n"

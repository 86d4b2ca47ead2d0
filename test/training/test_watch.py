"""A training that hangs says where, and ends; one that goes on is left alone."""

import os
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from blspkd.training import watch
from blspkd.training.watch import Watch

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("hang", ["time.sleep(900)", "ctypes.PyDLL(None).sleep(900)"])  # PyDLL keeps the GIL
def test_a_hang_ends_with_the_stacks_of_all_threads(warm, hang):
    code = ("import ctypes, time\nfrom blspkd.training.watch import Watch\n"
            f"def in_a_step(): time.sleep(0.5); {hang}\nwith Watch(0.02): in_a_step()")
    done = subprocess.run([warm / "bin/python", "-c", code], capture_output=True, text=True, timeout=400, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "RANK": "3", "WORLD_SIZE": "4"})
    assert done.returncode == 1 and "in in_a_step" in done.stderr
    if "PyDLL" not in hang:
        assert "rank 3 of 4 has done nothing for 0.02 minutes (training.hang_minutes)" in done.stderr


@pytest.mark.parametrize(("minutes", "pause"), [(0.02, 0.1), (0, 2.0)])
def test_what_goes_on_or_is_not_watched_is_left_alone(minutes, pause, capfd):
    with Watch(minutes) as watching:
        for _ in range(int(2.0 / pause)):
            time.sleep(pause)
            watching.beat()
    assert not capfd.readouterr().err


def test_a_process_whose_launcher_is_gone_is_told_to_stop(monkeypatch):
    monkeypatch.setattr(watch, "SECONDS", 0.1)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    ours, theirs = os.pipe()
    launcher = os.fork()
    if not launcher:
        if not os.fork():
            signal.signal(signal.SIGTERM, lambda *_: os.write(theirs, b"told") and os._exit(0))
            with Watch(0):
                time.sleep(0.5)
                os.write(theirs, b"running ")
                time.sleep(20)
            os._exit(0)
        time.sleep(1)
        os._exit(0)
    os.close(theirs)
    os.waitpid(launcher, 0)
    heard = b""
    while select.select([ours], [], [], 15)[0] and (part := os.read(ours, 99)):
        heard += part
    os.close(ours)
    assert heard == b"running told"

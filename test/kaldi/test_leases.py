"""Leases: one process has one at a time, the dead lose theirs, clocks do not matter."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from blspkd.errors import DataError, Stopped
from blspkd.kaldi import leases as module
from blspkd.kaldi.leases import Leases, share

NOBODY = 2**22 + 1  # no process has this number


@pytest.fixture(params=["links", "no links"])
def disk(request, monkeypatch):
    """What the folder's file system knows."""
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    if request.param == "no links":
        monkeypatch.setattr(module.os, "link", refuse)


def rewrite(lease, **changes) -> None:
    """Make a lease that of another process."""
    date = lease.path.stat().st_mtime_ns
    lease.path.write_text(json.dumps(json.loads(lease.path.read_text()) | changes))
    os.utime(lease.path, ns=(date, date))


def test_one_process_has_a_lease_and_the_next_one_when_it_is_back(disk, tmp_path):
    one, other = Leases(tmp_path), Leases(tmp_path)
    lease = one.take("a/b")
    assert lease.deaths == 0 and lease.is_ours()
    assert other.take("a/b") is None and other.take("a/c") is not None
    lease.release()
    assert other.take("a/b").deaths == 0


def test_the_lease_of_a_dead_process_of_this_machine_is_taken_over_at_once_and_counted(disk, tmp_path):
    leases = Leases(tmp_path)
    for deaths in range(3):
        lease = leases.take("a")
        assert lease.deaths == deaths
        rewrite(lease, process=NOBODY)
    rewrite(leases.take("a"), process=NOBODY, place="elsewhere")
    assert leases.take("a") is None  # whose processes nobody here can see


@pytest.mark.parametrize("offset", [-1e6, 0.0, 1e6])
def test_a_lease_that_is_not_renewed_is_taken_over_by_the_clock_of_the_disk(tmp_path, offset):
    """The dates of files may be far from this machine's clock."""
    now = time.time() + offset
    leases = Leases(tmp_path, stale=60, now=lambda: now)
    lease = leases.take("a")
    os.utime(lease.path, (now - 59, now - 59))
    assert leases.take("a") is None
    os.utime(lease.path, (now - 61, now - 61))
    second = leases.take("a")
    assert second.deaths == 1 and second.is_ours() and not lease.is_ours()
    lease.renew()  # it wakes up: the file that it had is not there any more
    assert second.is_ours()
    lease.release()
    assert second.is_ours()


def test_the_time_is_that_of_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)
    now = Leases(tmp_path)._now()
    assert now == pytest.approx((tmp_path / "x").touch() or (tmp_path / "x").stat().st_mtime, abs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_lease_is_renewed_while_its_process_works(tmp_path):
    leases = Leases(tmp_path, beat=0.01)
    lease = leases.take("a")
    os.utime(lease.path, (0, 0))
    with leases.kept_alive(lease):
        end = time.monotonic() + 10
        while lease.path.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
    assert lease.path.stat().st_mtime > 0
    os.utime(lease.path, (0, 0))
    time.sleep(0.05)
    assert lease.path.stat().st_mtime == 0


def test_a_lease_that_another_took_over_between_look_and_grip_is_handed_back(tmp_path, monkeypatch):
    slow, fast = Leases(tmp_path, stale=60), Leases(tmp_path, stale=60)
    rewrite(slow.take("a"), process=NOBODY)
    rename = os.rename

    def late(source, destination):
        monkeypatch.setattr(module.os, "rename", rename)
        late.taken = fast.take("a")
        rename(source, destination)

    monkeypatch.setattr(module.os, "rename", late)
    assert slow.take("a") is None
    assert late.taken.is_ours() and late.taken.deaths == 1


def test_of_many_that_take_over_at_the_same_instant_one_succeeds(tmp_path):
    for round_ in range(20):
        rewrite(Leases(tmp_path).take(str(round_)), process=NOBODY)
        start, taken = threading.Barrier(8), []

        def take(start=start, taken=taken, name=str(round_)):
            leases = Leases(tmp_path)
            start.wait()
            taken.append(leases.take(name))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(lease is not None and lease.is_ours() for lease in taken) == 1


WORK = """
import sys, time
from pathlib import Path
from blspkd.kaldi import leases
leases.PATIENCE = 0.02
folder = Path(sys.argv[1])
while not (folder / "go").exists():
    time.sleep(0.001)
def work(index, lease):
    time.sleep(0.003)
    with open(folder / "log", "a") as log:
        log.write(f"{index}\\n")
    (folder / f"{index}.done").touch()
leases.share([f"{i % 3}/{i}" for i in range(60)], leases.Leases(folder / "leases"),
             lambda i: (folder / f"{i}.done").exists(), work, first=int(sys.argv[2]))
"""


def test_processes_that_start_in_the_same_instant_share_the_work_and_do_nothing_twice(tmp_path):
    jobs = [subprocess.Popen([sys.executable, "-c", WORK, tmp_path, "0"]) for _ in range(4)]
    time.sleep(0.5)
    (tmp_path / "go").touch()
    assert [job.wait(60) for job in jobs] == [0] * 4
    done = Counter((tmp_path / "log").read_text().split())
    assert done == Counter(map(str, range(60)))
    assert not [path for path in (tmp_path / "leases").rglob("*") if path.is_file()]


@pytest.mark.parametrize(("error", "deaths"), [(DataError("x"), 0), (Stopped(), 0), (KeyboardInterrupt(), 0),
                                               (RuntimeError("a device is broken"), 1)])
def test_only_what_nobody_expected_counts_as_a_death(tmp_path, error, deaths):
    def fail(index, lease):
        raise error

    leases = Leases(tmp_path)
    with pytest.raises(type(error)):
        share(["a"], leases, lambda index: False, fail)
    assert leases.take("a").deaths == deaths


def test_what_others_work_on_is_waited_for(tmp_path, monkeypatch):
    done = set()
    other = Leases(tmp_path).take("b")

    def wait(seconds):
        done.add(1)  # the other one
        other.finish()

    monkeypatch.setattr(module, "sleep", wait)
    worked = []
    share(["a", "b", "c"], Leases(tmp_path), done.__contains__, lambda index, lease: (worked.append(index),
                                                                                     done.add(index)), first=1)
    assert worked == [2, 0] and done == {0, 1, 2}
    assert not list(Path(tmp_path).iterdir())


def test_a_date_far_ahead_is_no_sign_of_life(tmp_path):
    """The disk's clock was set back after a process of another machine had died."""
    leases = Leases(tmp_path, stale=60)
    for ahead, deaths in ((50, None), (3600, 1)):
        lease = leases.take(str(ahead))
        rewrite(lease, place="elsewhere")
        date = lease.path.stat().st_mtime + ahead
        os.utime(lease.path, (date, date))
        second = leases.take(str(ahead))
        assert (second and second.deaths) == deaths


@pytest.mark.parametrize("contents", ["", "\x00", "[1]", '{"deaths": "3", "process": 1}', '{"deaths": null}'])
def test_what_another_version_or_a_full_disk_left_is_taken_over_when_it_is_old(tmp_path, contents):
    leases = Leases(tmp_path, stale=60)
    (tmp_path / "a.lease").write_text(contents)
    assert leases.take("a") is None
    os.utime(tmp_path / "a.lease", (0, 0))
    assert leases.take("a").deaths == 1


def test_a_lease_is_ours_although_another_process_grips_it_for_an_instant(tmp_path, monkeypatch):
    link = os.link

    def gripped(source, destination):
        link(source, destination)
        os.rename(destination, tmp_path / "gripped")  # and is handed back when that process has looked at it

    monkeypatch.setattr(module.os, "link", gripped)
    lease = Leases(tmp_path).take("a")
    os.rename(tmp_path / "gripped", lease.path)
    assert lease.is_ours()
    os.utime(lease.path, (0, 0))
    lease.renew()
    assert lease.path.stat().st_mtime > 0


def test_a_full_disk_names_the_file_and_leaves_no_half_of_it(tmp_path, monkeypatch):
    def full(path, *_, **__):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left") as raised:
        Leases(tmp_path).take("a")
    assert raised.value.filename == str(tmp_path / "a.lease") and not list(tmp_path.iterdir())

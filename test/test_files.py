import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save_file

from blspkd.files import atomic_path, atomic_write

WRITE = """
import sys, time
from pathlib import Path
from blspkd.files import atomic_path

with atomic_path(sys.argv[1]) as temporary:
    if sys.argv[2] == "folder":
        temporary.mkdir()
    (temporary / "file" if sys.argv[2] == "folder" else temporary).write_text("x")
    print(flush=True)
    time.sleep(float(sys.argv[3]))
"""


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file"
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write("half")
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    with atomic_write(path) as file:
        file.write("whöle")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "whöle"


def test_an_error_keeps_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write("new")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_directory_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "folder"
    for content in ("one", "two"):
        with atomic_path(path) as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert [p.name for p in path.iterdir()] == ["two"]


def start(path, kind="file", seconds=60):
    """A process that has begun to write `path`."""
    process = subprocess.Popen([sys.executable, "-c", WRITE, path, kind, str(seconds)], stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_next_process_removes_what_a_killed_one_left(tmp_path, kind):
    process = start(tmp_path / "one", kind)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(tmp_path.glob("one.tmp-*"))) == 1
    assert start(tmp_path / "two", "file", 0).wait() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["two"]


def test_what_somebody_writes_is_left_alone(tmp_path):
    process = start(tmp_path / "one", "file", 60)
    assert start(tmp_path / "two", "file", 0).wait() == 0
    assert len(list(tmp_path.glob("one.tmp-*"))) == 1
    process.kill()
    process.wait()


@pytest.mark.parametrize(("name", "days", "is_kept"), [
    ("x.tmp-0123abcd-1", 6, True), ("x.tmp-0123abcd-1", 8, False),  # another machine's
    ("x.tmp-1", 8, True), ("notes.tmp-old", 8, True),  # none of ours
])
def test_of_another_place_only_what_is_old_is_removed(tmp_path, name, days, is_kept):
    (tmp_path / name).touch()
    os.utime(tmp_path / name, (time.time() - 86400 * days,) * 2)
    with atomic_write(tmp_path / "file"):
        pass
    assert (tmp_path / name).exists() == is_kept


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_who_may_read_is_up_to_the_umask(tmp_path, umask, mode):
    """safetensors' files are for their owner alone, whatever the umask."""
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "shard.safetensors") as temporary:
            save_file({"a": torch.zeros(1)}, temporary)
        with atomic_path(tmp_path / "model") as temporary:
            (temporary / "plora").mkdir(parents=True)
            for name in ("adapter.safetensors", "plora/adapter_model.safetensors"):
                save_file({"a": torch.zeros(1)}, temporary / name)
            (temporary / "config.yaml").touch()
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.*")}
    assert modes == dict.fromkeys(["shard.safetensors", "adapter.safetensors", "adapter_model.safetensors",
                                   "config.yaml"], mode)

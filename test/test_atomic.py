import os

import pytest
import torch
from safetensors.torch import save_file

from blspkd.atomic import atomic_path, atomic_write


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

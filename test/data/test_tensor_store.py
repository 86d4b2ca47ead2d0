import pickle

import pytest
import torch

from blspkd.data.tensor_store import Shard, TensorStore
from blspkd.errors import DataError

TENSORS = {"a": torch.randn(3, 2), "b": torch.randn(1, 2).bfloat16(), "c": torch.zeros(0, 2)}


def store_of(folder, text="1"):
    return TensorStore(folder, [Shard(["a", "b"], {"text": text}), Shard(["c", "d"], {"text": "other"})])


@pytest.fixture
def store(tmp_path):
    store = store_of(tmp_path / "store")
    assert store.missing() == [0, 1]
    store.write(0, {"a": TENSORS["a"], "b": TENSORS["b"]})
    store.write(1, {"c": TENSORS["c"]})
    return store


def test_tensors_come_back_bit_for_bit_also_in_another_process(store):
    store.get("a")
    for reader in (store, pickle.loads(pickle.dumps(store))):
        for key, value in TENSORS.items():
            assert torch.equal(reader.get(key), value) and reader.get(key).dtype == value.dtype
        assert reader.get("d") is None
        with pytest.raises(KeyError):
            reader.get("nobody")


def test_more_shards_than_may_be_open(store, monkeypatch):
    monkeypatch.setattr("blspkd.data.tensor_store._MAX_OPEN", 1)
    for key in "acabc":
        assert torch.equal(store.get(key), TENSORS[key])
    assert len(store._open) == 1


def test_what_was_made_from_something_else_is_removed_and_named(store):
    assert store_of(store.folder).remove_stale() == [] and store_of(store.folder).missing() == []
    changed = store_of(store.folder, "2")
    assert changed.remove_stale(shared=True) == [] and changed.missing() == [0]  # somebody else's
    assert store.missing() == []
    assert changed.remove_stale() == ["text"] and changed.missing() == [0]


def test_what_a_kill_left_is_removed(store):
    (store.folder / "shard-00001-of-00002.safetensors.tmp-77").write_bytes(b"half")
    assert store.remove_stale() == [] and len(list(store.folder.iterdir())) == 2


def test_a_damaged_shard_is_written_anew(store):
    whole = store.paths[0].read_bytes()
    for damage in (whole[:20], whole[:-4], b""):
        store.paths[0].write_bytes(damage)
        store.remove_stale()
        assert store.missing() == [0]


def test_a_store_of_another_size_is_stale(store):
    assert TensorStore(store.folder, [Shard(["a"], {"text": "1"})]).remove_stale() == ["text"]
    assert not list(store.folder.iterdir())


def test_a_shard_that_is_gone_is_an_error_that_says_what_to_do(store):
    store.paths[0].unlink()
    with pytest.raises(DataError, match="shard-.*start again"):
        store.get("a")

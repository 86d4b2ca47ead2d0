import pickle

import pytest
import torch

from blspkd.data.tensor_store import TensorStore
from blspkd.errors import DataError

TENSORS = {"a": torch.randn(3, 2), "b": torch.randn(1, 2).bfloat16(), "c": torch.zeros(0, 2)}
DIGESTS = {"a": "1", "b": "2", "c": "3", "d": "4"}


def store_of(folder, text="made from this", digests=DIGESTS):
    store = TensorStore(folder, {"text": text})
    return store, store.find(digests)


@pytest.fixture
def store(tmp_path):
    store, missing = store_of(tmp_path / "store")
    assert missing == ["a", "b", "c", "d"]
    store.write({"a": "1", "b": "2"}, {"a": TENSORS["a"], "b": TENSORS["b"]})
    store.write({"c": "3", "d": "4"}, {"c": TENSORS["c"]})
    assert store.find(DIGESTS) == [] and len(store.paths) == 2
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


def test_shards_of_a_larger_set_serve_a_smaller_one_and_stay(store):
    part, missing = store_of(store.folder, digests={"d": "4", "b": "2"})
    assert missing == [] and torch.equal(part.get("b"), TENSORS["b"]) and part.get("d") is None
    assert part.remove_stale() == [] and store.find(DIGESTS) == []
    other, missing = store_of(store.folder, digests={"b": "2", "e": "5"})
    assert missing == ["e"] and not other.changed
    assert other.remove_stale() == []
    assert store.find(DIGESTS) == ["c", "d"]  # nothing of what is wanted now was in that shard


def test_an_utterance_that_changed_is_missing_and_named(store):
    changed, missing = store_of(store.folder, digests=DIGESTS | {"b": "other"})
    assert missing == ["b"] and changed.changed == {"b"}
    changed.write({"b": "other"}, {"b": TENSORS["a"]})
    assert changed.find(DIGESTS | {"b": "other"}) == [] and changed.changed == set()
    assert torch.equal(changed.get("b"), TENSORS["a"]) and torch.equal(changed.get("a"), TENSORS["a"])
    assert store.find(DIGESTS) == [] and torch.equal(store.get("b"), TENSORS["b"])


def test_what_was_made_from_something_else_is_removed_and_named(store):
    assert store.remove_stale() == []
    changed, missing = store_of(store.folder, "and that")
    assert missing == list(DIGESTS) and not changed.changed
    assert changed.remove_stale(shared=True) == [] and store.find(DIGESTS) == []  # somebody else's
    assert changed.remove_stale() == ["text"] and store.find(DIGESTS) == list(DIGESTS)
    assert not list(store.folder.iterdir())


def test_what_a_kill_left_is_removed(store):
    (store.folder / "shard-0123456789abcdef.safetensors.tmp-77").write_bytes(b"half")
    assert store.remove_stale(shared=True) == [] and len(list(store.folder.iterdir())) == 3  # it may be written now
    assert store.remove_stale() == [] and len(list(store.folder.iterdir())) == 2


@pytest.mark.parametrize("shared", [False, True])
def test_a_damaged_shard_is_removed_and_missing(store, shared):
    path = store.paths[store._shard_of["a"]]
    whole = path.read_bytes()
    for damage in (whole[:20], whole[:-4], b""):
        path.write_bytes(damage)
        assert store.find(DIGESTS) == ["a", "b"] and store.remove_stale(shared) == [] and not path.exists()


def test_a_shard_that_is_gone_is_an_error_that_says_what_to_do(store):
    store.paths[store._shard_of["a"]].unlink()
    with pytest.raises(DataError, match="shard-.*start again"):
        store.get("a")

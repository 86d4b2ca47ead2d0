"""Free memory is given back after batches, and not all the time."""

import pytest

from blspkd import free_memory
from blspkd.serve import memory


@pytest.fixture
def trims(monkeypatch) -> list:
    """Calls of the C library."""
    trims = []
    monkeypatch.setattr(free_memory, "_trim", trims.append)
    return trims


def test_it_is_given_back_once_after_batches(trims, monkeypatch):
    monkeypatch.setattr(memory, "_MIN_SECONDS", 0.0)
    free = memory.FreeMemory()
    free.give_back()
    assert trims == []
    free.scatter()
    free.scatter()
    free.give_back()
    free.give_back()
    assert trims == [0]


def test_it_is_not_given_back_again_at_once(trims):
    free = memory.FreeMemory()
    free.scatter()
    free.give_back()
    assert trims == []


def test_other_c_libraries_keep_what_they_keep(monkeypatch):
    monkeypatch.setattr(memory, "_MIN_SECONDS", 0.0)
    monkeypatch.setattr(free_memory, "_trim", None)
    free = memory.FreeMemory()
    free.scatter()
    free.give_back()

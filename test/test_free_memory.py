"""What a large step leaves is given back, what a usual one leaves is kept."""

import pytest

from blspkd import free_memory

MIB = 1 << 20


def test_memory_that_is_free_goes_back_to_the_system():
    if not free_memory.resident():
        pytest.skip("the C library is not glibc")
    blocks = [bytes(3000) for _ in range(40_000)]  # some 115 MiB, between others
    kept = blocks[::400]
    full = free_memory.resident()
    del blocks
    free_memory.give_back()
    assert free_memory.resident() < full - 60 * MIB and len(kept) == 100


def test_it_is_given_back_where_more_than_a_share_of_what_is_in_use_is_kept(monkeypatch):
    sizes = iter([100, 80, 90, 107, 109, 85, 110, 115, 115])  # in use and kept; what is left when it was given back
    given_back = []
    monkeypatch.setattr(free_memory, "resident", lambda: next(sizes))
    monkeypatch.setattr(free_memory, "give_back", lambda: given_back.append(1))
    tidy, counts = free_memory.Tidy(0.35), []
    for _ in range(6):
        tidy.after_step()
        counts.append(len(given_back))
    assert counts == [1, 1, 1, 2, 2, 3] and tidy.in_use == 115


def test_another_c_library_keeps_what_it_keeps(monkeypatch):
    monkeypatch.setattr(free_memory, "_trim", None)
    free_memory.give_back()
    assert free_memory.resident() == 0
    free_memory.Tidy().after_step()

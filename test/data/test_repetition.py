"""Loops against a plain search."""

from hypothesis import given
from hypothesis import strategies as st

from blspkd.data.repetition import is_looping


def slow(items, max_period, repeats, min_length):
    """Is there a stretch that is long enough, repeats itself often enough, and is the same shifted by its period?"""
    return any(items[start:end - period] == items[start + period:end]
               for period in range(1, max_period + 1)
               for start in range(len(items))
               for end in range(start + max(min_length, repeats * period), len(items) + 1))


@given(st.lists(st.integers(0, 1), max_size=24), st.integers(1, 4), st.integers(2, 4), st.integers(0, 12))
def test_loops_are_those_of_a_plain_search(items, max_period, repeats, min_length):
    assert is_looping(items, max_period, repeats, min_length) == slow(items, max_period, repeats, min_length)


def test_words_can_loop_too():
    assert is_looping("no no no".split(), 2, 3) and not is_looping("no no yes no".split(), 2, 3)

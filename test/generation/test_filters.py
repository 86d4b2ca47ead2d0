"""What is dropped and why, and what must not be."""

import pytest

from blspkd.generation import filters
from blspkd.generation.filters import reject


def verdict(ids, text, finished=True, **options):
    return reject(ids, text, finished, special_ids=frozenset({0, 9}), **options)


def test_an_ordinary_continuation_is_kept():
    assert verdict([5, 6, 7], "and then she left.") is None


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_nothing_but_white_space_is_empty(text):
    assert verdict([5], text) == filters.EMPTY


def test_min_tokens_is_inclusive():
    assert verdict([5, 6], "a b", min_tokens=2) is None
    assert verdict([5], "a", min_tokens=2) == filters.TOO_SHORT


def test_unfinished_ones_are_dropped_only_on_request():
    assert verdict([5, 6], "and then", finished=False) is None
    assert verdict([5, 6], "and then", finished=False, drop_unfinished=True) == filters.UNFINISHED


def test_special_tokens_are_found_and_text_that_spells_them_is_kept():
    assert verdict([5, 9, 6], "and then") == filters.SPECIAL_TOKENS
    assert verdict([5, 6, 7], "and <|end|> then") is None


def test_half_a_character_is_broken_text():
    assert verdict([5, 6], "na\ufffd", finished=False) == filters.BROKEN_TEXT


@pytest.mark.parametrize("ids", [[1] * 12, [3, 4] + [1, 2, 3] * 4, list(range(20)) + [7, 8] * 6, list(range(9)) * 4])
def test_loops_are_found_wherever_they_stand(ids):
    assert verdict([i + 10 for i in ids], "words and words") == filters.REPETITION


@pytest.mark.parametrize("ids", [[], [1], [1] * 11, [1, 2, 3] * 3 + [1, 2], list(range(60)), list(range(16)) * 3,
                                 [1, 2, 3, 1, 2, 4] * 2])
def test_some_repetition_is_natural(ids):
    assert verdict([i + 10 for i in ids], "words and words") != filters.REPETITION

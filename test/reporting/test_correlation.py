"""Spearman's rank correlation against its definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blspkd.reporting.correlation import ranks, rho_text, spearman


def test_ties_share_their_mean_rank():
    assert ranks([3, 1, 3, 2]).tolist() == [3.5, 1, 3.5, 2]


@pytest.mark.parametrize("left, right, rho", [
    ([1, 2, 3], [10, 20, 90], 1), ([1, 2, 3], [9, 5, 1], -1), ([1, 2, 3, 4], [1, 3, 2, 4], 0.8),
    ([1, 2], [1, 2], None), ([1, 1, 1], [1, 2, 3], None), ([], [], None),
])
def test_known_values(left, right, rho):
    assert spearman(left, right) == (None if rho is None else pytest.approx(rho))


def test_correlations_are_told_with_and_without_snapshots():
    finished, before = [(1, 10), (2, 20), (3, 90)], [(4, 5), (0, 95)]
    assert rho_text(finished) == "+1.00 (n=3)"
    assert rho_text(finished, before) == "+1.00 (n=3); -0.60 (n=5)"
    assert rho_text(finished[:2], before) == "-; -0.80 (n=4)"
    assert rho_text([]) == "-"


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="3 and 2"):
        spearman([1, 2, 3], [1, 2])


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=12))
def test_equals_pearson_of_ranks_by_counting(pairs):
    def slow_ranks(values):
        return [sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
                for value in values]

    left, right = zip(*pairs, strict=True)
    found = spearman(left, right)
    if len(set(left)) == 1 or len(set(right)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(np.corrcoef(slow_ranks(left), slow_ranks(right))[0, 1])
        assert -1 - 1e-9 <= found <= 1 + 1e-9

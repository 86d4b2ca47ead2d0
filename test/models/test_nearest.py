"""Nearest text embeddings of speech tokens, against a slow float64 search."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from blspkd.models import nearest as module
from blspkd.models.nearest import nearest, snap


def reference(tokens, table, mean_square):
    ids, sure = [], []
    for token in tokens.double().numpy():
        distances = ((token - table.double().numpy()) ** 2).sum(1) / (table.shape[1] * mean_square)
        shares = np.exp(-(distances - distances.min()) / 0.1)
        ids.append(int(distances.argmin()))
        sure.append(1 / shares.sum())
    return ids, sure


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(2, 40), st.integers(1, 8), st.integers(0, 99), st.sampled_from([1, 64, 1 << 20]))
def test_nearest_is_the_smallest_distance(n, vocabulary, width, seed, chunk):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(vocabulary, width, generator=generator)
    tokens = torch.randn(n, width, generator=generator)
    before, module.CHUNK = module.CHUNK, chunk
    try:
        ids, sure = nearest(tokens, table, 0.5)
    finally:
        module.CHUNK = before
    expected_ids, expected_sure = reference(tokens, table, 0.5)
    assert ids.tolist() == expected_ids
    np.testing.assert_allclose(sure.numpy(), expected_sure, rtol=1e-3)


@pytest.mark.parametrize("chunk", [8, 1 << 20])
def test_only_what_is_allowed_is_chosen_and_counted(chunk, monkeypatch):
    """A row of zeros would be nearest to whatever is near nothing."""
    monkeypatch.setattr(module, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    table, tokens = torch.randn(30, 16, generator=generator), 0.3 * torch.randn(5, 16, generator=generator)
    table[[3, 17]] = 0.0
    allowed = torch.ones(30, dtype=torch.bool)
    allowed[[3, 17]] = False
    assert set(nearest(tokens, table, 1.0)[0].tolist()) <= {3, 17}
    ids, sure = nearest(tokens, table, 1.0, allowed)
    expected_ids, expected_sure = nearest(tokens, table[allowed], 1.0)
    assert torch.equal(ids, allowed.nonzero().squeeze(1)[expected_ids])
    torch.testing.assert_close(sure, expected_sure)
    assert torch.equal(snap(tokens, table, 1.0, "hard", allowed), table[ids])


def test_snapping_is_none_all_or_by_confidence():
    table = torch.eye(4)
    tokens = torch.tensor([[0.9, 0.1, 0, 0], [0.6, 0.4, 0, 0.0]])
    assert snap(tokens, table, 0.25, "none") is tokens
    assert torch.equal(snap(tokens, table, 0.25, "hard"), table[[0, 0]])
    soft = snap(tokens, table, 0.25, "soft")
    moved = (soft - tokens).norm(dim=1) / (table[[0, 0]] - tokens).norm(dim=1)
    torch.testing.assert_close(moved, nearest(tokens, table, 0.25)[1])
    assert moved[0] > 0.99 > moved[1] > 0.5
    assert snap(tokens[:0], table, 0.25, "hard").shape == (0, 4)


def test_autocast_does_not_round_distances():
    table = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    expected = nearest(table + 0.5, table, 1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(map(torch.equal, nearest(table + 0.5, table, 1.0), expected))


def test_a_token_between_many_dimensions_is_drawn_only_a_little():
    """In as many dimensions as an LLM has: half way between two embeddings nothing is sure, near one it is."""
    table = torch.randn(1000, 576, generator=torch.Generator().manual_seed(0))
    between, near = (table[0] + table[1]) / 2, 0.8 * table[0] + 0.2 * table[1]
    assert nearest(torch.stack([between, near]), table, 1.0)[1].tolist() == pytest.approx([0.5, 1], abs=0.05)

"""Nearest text embeddings of speech tokens, against a slow float64 search."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from blspkd.models import nearest as module
from blspkd.models.nearest import nearest, snap


def reference(tokens, table):
    ids, sure = [], []
    for token in tokens.double().numpy():
        distances = ((token - table.double().numpy()) ** 2).sum(1)
        spread = max(distances.min() / len(token), 1e-12)
        shares = np.exp(-(distances - distances.min()) / (2 * spread))
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
        ids, sure = nearest(tokens, table)
    finally:
        module.CHUNK = before
    expected_ids, expected_sure = reference(tokens, table)
    assert ids.tolist() == expected_ids
    np.testing.assert_allclose(sure.numpy(), expected_sure, rtol=1e-3)


def test_snapping_is_none_all_or_by_confidence():
    table = torch.eye(4)
    tokens = torch.tensor([[0.9, 0.1, 0, 0], [0.5, 0.5, 0, 0.0]])
    assert snap(tokens, table, "none") is tokens
    assert torch.equal(snap(tokens, table, "hard"), table[[0, 0]])
    soft = snap(tokens, table, "soft")
    moved = (soft - tokens).norm(dim=1) / (table[[0, 0]] - tokens).norm(dim=1)
    assert moved[0] == pytest.approx(nearest(tokens[:1], table)[1].item(), rel=1e-4) and moved[0] > 0.99 > moved[1]
    assert snap(tokens[:0], table, "hard").shape == (0, 4)
    assert torch.equal(snap(table, table, "soft"), table)

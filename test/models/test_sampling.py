"""Sampling: the right distribution, and random streams that belong to the utterance."""

import numpy as np
import pytest
import torch

from blspkd.models.sampling import UtteranceSampler, pick, uniform_stream

FIRST_TWO = [0.9141238201356051, 0.7453533400501711]  # of seed 7, utterance utt-1


def test_tokens_come_with_their_probabilities():
    probabilities = torch.tensor([0.1, 0.0, 0.4, 0.3, 0.2])
    uniform = torch.linspace(0, 1, 10001, dtype=torch.float64)[:-1]
    picked = pick(probabilities.log().expand(10000, 5), uniform)
    shares = torch.bincount(picked, minlength=5) / 10000
    torch.testing.assert_close(shares, probabilities, atol=2e-4, rtol=0)


@pytest.mark.parametrize(("top_p", "kept"), [(0.35, {2}), (0.5, {2, 3}), (0.75, {2, 3, 4}), (1.0, {0, 2, 3, 4})])
def test_top_p_keeps_the_fewest_tokens_that_reach_the_mass(top_p, kept):
    logits = torch.tensor([0.1, 0.0, 0.4, 0.3, 0.2]).log().expand(1000, 5)
    picked = pick(logits, torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1], top_p=top_p)
    assert set(picked.tolist()) == kept


def test_low_temperature_is_greedy():
    logits = torch.tensor([[1.0, 2.0, 1.5]])
    assert pick(logits, torch.tensor([0.999]), temperature=0.01).item() == 1


def test_the_largest_number_below_one_never_picks_an_impossible_token():
    logits = torch.tensor([[0.0, 1.0, -torch.inf, -torch.inf]])
    assert pick(logits, torch.tensor([np.nextafter(1.0, 0.0)])).item() == 1


def test_streams_differ_by_utterance_and_seed_and_never_change():
    assert not np.array_equal(uniform_stream(0, "a", 8), uniform_stream(0, "b", 8))
    assert not np.array_equal(uniform_stream(0, "a", 8), uniform_stream(1, "a", 8))
    assert np.array_equal(uniform_stream(0, "a", 8), uniform_stream(0, "a", 99)[:8])
    np.testing.assert_allclose(uniform_stream(7, "utt-1", 2), FIRST_TWO, rtol=0, atol=1e-15)


def test_each_row_takes_the_number_of_its_own_step():
    uniforms = np.array([[0.1, 0.9], [0.9, 0.1]])
    sampler = UtteranceSampler(uniforms, temperature=1.0, top_p=1.0)
    scores = torch.zeros(2, 2)
    for step, chosen in enumerate(([0, 1], [1, 0])):
        assert sampler(torch.zeros(2, step, dtype=torch.long), scores).argmax(-1).tolist() == chosen

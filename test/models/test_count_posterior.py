"""The probability of every number of tokens, against the sum over all CTC paths."""

import itertools
import math
from typing import get_args, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blspkd.errors import ConfigError
from blspkd.evaluation_config import DecodeConfig
from blspkd.models.adapters.adapter import Sides
from blspkd.models.adapters.cformer import CFormer
from blspkd.models.adapters.conv import ConvSubsampler
from blspkd.models.count_posterior import likeliest_count, log_count_posterior
from blspkd.models.token_counter import count_labels


def enumerated(logits: torch.Tensor) -> list[float]:
    """P(n | x) of one utterance [T, K + 1], n = 0 ... T, from the definition."""
    probabilities = logits.double().softmax(-1).tolist()
    found = [[] for _ in range(len(probabilities) + 1)]
    for path in itertools.product(range(logits.shape[1]), repeat=len(probabilities)):
        n = sum(1 for label, _ in itertools.groupby(path) if label)
        found[n].append(math.prod(row[label] for row, label in zip(probabilities, path, strict=True)))
    return [math.fsum(values) for values in found]


@pytest.mark.parametrize("case", range(20))
def test_it_is_the_sum_over_all_paths(case):
    generator = torch.Generator().manual_seed(case)
    frames, symbols = 1 + case % 7, 2 + case % 3
    logits = 3 * torch.randn(1, frames, symbols, generator=generator, dtype=torch.float64)
    found = log_count_posterior(logits, torch.tensor([frames]), frames)[0]
    expected = enumerated(logits[0])
    for n, probability in enumerate(expected):
        assert float(found[n].exp()) == pytest.approx(probability, rel=1e-12, abs=0)
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-12)
    assert likeliest_count(logits, torch.tensor([frames])).tolist() == [1 + max(
        range(frames), key=lambda n: expected[n + 1])]


def test_the_sum_may_have_another_maximum_than_the_likeliest_path():
    differing = 0
    for case in range(20):
        logits = torch.randn(1, 7, 3, generator=torch.Generator().manual_seed(case), dtype=torch.float64)
        differing += int(likeliest_count(logits, torch.tensor([7])) != count_labels(logits, torch.tensor([7])))
    assert 3 < differing < 18


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 6), st.integers(0, 99))
def test_alone_as_in_a_batch_and_stopped_early_as_in_full(lengths, highest, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(len(lengths), max(lengths), 4, generator=generator, dtype=torch.float64)
    full = log_count_posterior(logits, torch.tensor(lengths), max(lengths))
    for row, length in enumerate(lengths):
        alone = log_count_posterior(logits[row:row + 1, :length], torch.tensor([length]), highest)[0]
        size = min(highest, max(lengths)) + 1
        torch.testing.assert_close(full[row, :size], alone[:size], rtol=1e-12, atol=1e-12)
        assert full[row, length + 1:].isneginf().all()
    counts = likeliest_count(logits, torch.tensor(lengths))
    assert counts.tolist() == (full[:, 1:].argmax(1) + 1).tolist()


def test_nothing_underflows_in_long_utterances_that_are_sure():
    """600 frames, 200 tokens: the probability of the wrong numbers is far below the smallest float64."""
    logits = torch.zeros(1, 600, 30)
    logits[0, torch.arange(600), [0 if t % 3 else 1 + t % 29 for t in range(600)]] = 60.0
    log_p = log_count_posterior(logits, torch.tensor([600]), 250)[0]
    assert log_p[200] == pytest.approx(0, abs=1e-9) and likeliest_count(logits, torch.tensor([600])).tolist() == [200]
    # one token fewer: its frame is blank, in 200 places: 60 nats less
    assert log_p[199] == pytest.approx(math.log(200) - 60, abs=1e-3) and log_p[0] < -11000


def test_it_goes_as_far_as_a_higher_number_might_win():
    """Many faint labels: no frame's likeliest symbol is one, and together they are almost certainly several."""
    logits = torch.zeros(1, 60, 41)
    logits[..., 0] = 3.0  # the blank has 1/3, each of 40 labels 1/60
    full = log_count_posterior(logits, torch.tensor([60]), 60)[0]
    assert count_labels(logits, torch.tensor([60])).tolist() == [1]
    assert likeliest_count(logits, torch.tensor([60])).tolist() == [int(full[1:].argmax()) + 1] != [1]


def test_another_opinion_weighs_as_a_laplace_distribution():
    torch.manual_seed(0)
    logits, lengths = torch.randn(6, 20, 4), torch.tensor([20, 18, 15, 9, 3, 1])
    expected = torch.tensor([3.2, 9.0, 14.8, 4.4, 2.6, 7.0])
    log_p = log_count_posterior(logits, lengths, 20)
    for spread in (0.25, 1.0, 4.0):
        scores = log_p - (torch.arange(21) - expected[:, None]).abs() / spread
        assert likeliest_count(logits, lengths, expected, spread).tolist() == (scores[:, 1:].argmax(1) + 1).tolist()
    sure = likeliest_count(logits, lengths, expected, 1e-6).tolist()  # the opinion alone, where paths can say it
    assert sure[:5] == [3, 9, 15, 4, 3] and sure[5] == 1


def test_an_adapter_counts_so_where_it_is_asked_to():
    torch.manual_seed(0)
    options = CFormer.Options(num_pre_cif_layers=1, num_post_cif_layers=0, heads=2, ffn_dim=8, ctc_classes=5)
    adapter = CFormer(options, Sides(8, 6, 0.1)).eval()
    frames, lengths = torch.randn(5, 40, 8), torch.tensor([40, 33, 21, 17, 9])
    with torch.no_grad():
        speech = adapter(frames * (torch.arange(40) < lengths[:, None])[..., None], lengths)
        expected = {"alpha": speech.n_tokens, "posterior": likeliest_count(speech.ctc_logits, lengths),
                    "posterior_alpha": likeliest_count(speech.ctc_logits, lengths, speech.alpha.double().sum(1), 1.5)}
        for how, numbers in expected.items():
            adapter.count_as(how)
            found = adapter(frames * (torch.arange(40) < lengths[:, None])[..., None], lengths)
            assert found.n_tokens.tolist() == numbers.tolist()
    assert len({tuple(numbers.tolist()) for numbers in expected.values()}) == 3


def test_what_cannot_count_so_says_it():
    sides = Sides(8, 6, 0.1)
    with pytest.raises(ConfigError, match="count: posterior needs the counter that ctc_classes makes"):
        CFormer(CFormer.Options(heads=2, ffn_dim=8), sides).count_as("posterior")
    with pytest.raises(ConfigError, match="count: posterior: this adapter counts no text tokens in that way"):
        ConvSubsampler(ConvSubsampler.Options(), sides).count_as("posterior")
    with pytest.raises(ConfigError, match="count_spread: 0 is not a positive number"):
        CFormer.Options(count_spread=0)
    known = get_args(get_type_hints(CFormer.Options)["count"])
    assert get_args(get_type_hints(DecodeConfig)["count"]) == ("model", "transcript", *known)

"""The paired bootstrap against brute force, and its calibration."""

import math

import numpy as np
import pytest

from blspkd.config import TaskConfig
from blspkd.evaluation import paired_bootstrap
from blspkd.evaluation.metrics import compute
from blspkd.evaluation.paired_bootstrap import (
    Statistics,
    _t_quantile,
    _t_share_below,
    holm,
    of_flags,
    paired_difference,
    statistics,
)

REFERENCES = ["tom sold six bags", "anna sees the old tree", "we met in the park", "ben counts seven cups"]
HYPOTHESES = ["tom sold six bags", "anna sees an old tree in town", "we met in a dark park", ""]


@pytest.mark.parametrize("metric", ["bleu", "chrf", "exact_match", "wer", "cer"])
def test_the_statistics_of_all_utterances_give_the_score(metric):
    found = statistics(metric, HYPOTHESES, REFERENCES, TaskConfig())
    expected = compute(metric, list("abcd"), HYPOTHESES, REFERENCES, TaskConfig(), 10)[0].value
    assert found.score(found.table.sum(0)) == pytest.approx(expected, abs=1e-6)
    drawn = [2, 2, 0, 1]  # a draw of utterances, scored as a corpus of its own
    again = compute(metric, list("abcd"), [HYPOTHESES[i] for i in drawn], [REFERENCES[i] for i in drawn], TaskConfig(),
                    10)
    counts = np.bincount(drawn, minlength=4).astype(float)
    assert found.score(counts @ found.table) == pytest.approx(again[0].value, abs=1e-6)


def test_a_system_does_not_differ_from_itself():
    runs = [of_flags([True, False, True, True, False, True])]
    found = paired_difference(runs, runs, 200, 0)
    assert found.value == 0 and found.ci95 == (0, 0) and found.p == 1 and not found.significant


@pytest.mark.parametrize("n", [1, 2, 5])
def test_fewer_than_six_utterances_are_never_called_different(n):
    """Not even where one system is right and the other wrong every time: by chance that has p = 2 / 2**n."""
    found = paired_difference([of_flags([True] * n)], [of_flags([False] * n)], 100, 0)
    assert found.value == 100 and found.p is None and found.ci95 is None and not found.significant


@pytest.mark.parametrize("n", [6, 10, 300])
def test_equal_differences_are_as_unlikely_as_so_many_heads_in_a_row(n):
    found = paired_difference([of_flags([True] * n)], [of_flags([False] * n)], 100, 0)
    assert found.p == pytest.approx(2 / 2**n, rel=1e-9, abs=1e-300) and found.significant


def test_nearly_equal_differences_are_no_more_unlikely_than_equal_ones():
    table = np.stack([np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.001]), np.ones(6)], axis=1)
    worse = of_flags([False] * 6)
    assert paired_difference([Statistics(table, worse.score)], [worse], 100, 0).p == 2 / 2**6


def pair_of_equals(random, n, gain=0.0):
    """Two runs that share how hard an utterance is, and have noise of their own; `gain` of the first, in its units."""
    hard = random.standard_normal(n)
    return [[Statistics(np.stack([hard + shift + random.standard_normal(n), np.ones(n)], axis=1), of_flags([1]).score)]
            for shift in (gain, 0.0)]


def pair_of_error_rates(random, n, gain=0.0):
    """Words and errors of two runs: a ratio of sums over utterances of 3 to 24 words, some of them much harder."""
    words, hard = random.integers(3, 25, n), random.exponential(size=n)
    return [[Statistics(np.stack([np.minimum(words, random.poisson(0.1 * words * hard * (1 + shift))), words],
                                 axis=1).astype(float), of_flags([1]).score)] for shift in (gain, 0.0)]


@pytest.mark.parametrize("pair", [pair_of_equals, pair_of_error_rates])
@pytest.mark.parametrize("n", [20, 50])
def test_few_utterances_call_equal_systems_different_as_rarely_as_many(n, pair, monkeypatch):
    monkeypatch.setattr(paired_bootstrap, "_t_quantile", lambda share, freedom: 0.0)  # p does not need it
    random = np.random.default_rng(n)
    called = np.mean([paired_difference(*pair(random, n), 200, trial).p < 0.05 for trial in range(2000)])
    assert 0.035 <= called <= 0.065  # before the correction, at n = 20: 0.075


@pytest.mark.parametrize(("pair", "n", "least"), [(pair_of_equals, 6, 0.2), (pair_of_equals, 20, 0.8),
                                                  (pair_of_error_rates, 20, 0.6), (pair_of_error_rates, 50, 0.95)])
def test_few_utterances_suffice_for_large_differences(pair, n, least, monkeypatch):
    monkeypatch.setattr(paired_bootstrap, "_t_quantile", lambda share, freedom: 0.0)
    random = np.random.default_rng(n)
    called = np.mean([paired_difference(*pair(random, n, gain=1.0), 200, trial).p < 0.05 for trial in range(400)])
    assert called >= least


def test_pairs_count():
    """The same answers but for some that are better: significant, although the two intervals overlap widely."""
    random = np.random.default_rng(0)
    flags = random.random(300) < 0.5
    better = flags | (random.random(300) < 0.05)
    found = paired_difference([of_flags(better)], [of_flags(flags)], 1000, 0)
    assert found.significant and found.value == pytest.approx(100 * (better.mean() - flags.mean()))
    assert found.ci95[0] < found.value < found.ci95[1]


def test_seeds_that_disagree_widen_the_interval():
    random = np.random.default_rng(0)
    steady = [of_flags(random.random(300) < p) for p in (0.8, 0.8, 0.8)]
    wild = [of_flags(random.random(300) < p) for p in (0.6, 0.8, 0.99)]
    reference = [of_flags(random.random(300) < 0.75) for _ in range(3)]
    width = {name: np.ptp(paired_difference(runs, reference, 500, 0).ci95)
             for name, runs in (("steady", steady), ("wild", wild))}
    assert width["wild"] > 3 * width["steady"]


@pytest.mark.parametrize("seeds", [(3, 3), (1, 3), (5, 2)])
def test_methods_that_are_equal_but_for_their_seeds_are_seldom_called_different(seeds):
    """Every training has a quality of its own: with many utterances, that is what differences are made of."""
    random = np.random.default_rng(1)

    def trained(number):
        return [of_flags(random.random(2000) < 0.8 + 0.03 * random.standard_normal()) for _ in range(number)]

    called = sum(paired_difference(trained(seeds[0]), trained(seeds[1]), 60, trial).significant for trial in range(200))
    assert called <= 24  # 10 expected


def test_equal_systems_of_one_seed_are_seldom_called_different_over_other_utterances():
    random = np.random.default_rng(1)
    called = 0
    for trial in range(100):
        a, b = (of_flags(random.random(200) < 0.7) for _ in range(2))
        called += paired_difference([a], [b], 200, trial).significant
    assert called <= 14  # 5 expected


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.706), (2, 4.3027), (4, 2.7764), (30, 2.0423), (1e4, 1.9602)])
def test_quantiles_of_students_distribution(freedom, quantile):
    """Against a printed table."""
    assert _t_quantile(0.975, freedom) == pytest.approx(quantile, abs=2e-3)


@pytest.mark.parametrize("t", [0.5, 3.0, 4.3, 20.0, 60.0])
def test_small_p_values_are_exact_enough_to_be_corrected(t):
    """Against the closed forms for 1 and 2 degrees of freedom; nothing of it depends on the number of draws."""
    for freedom, p in ((1, 1 - 2 * math.atan(t) / math.pi), (2, 1 - t / math.sqrt(2 + t**2))):
        assert 2 * (1 - _t_share_below(t, freedom)) == pytest.approx(p, abs=1e-6)


@pytest.mark.parametrize(("p_values", "adjusted"), [
    ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]), ([0.2], [0.2]), ([0.6, 0.5], [1.0, 1.0]), ([], [])])
def test_holms_correction(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted)


def trained_alike(random, number):
    """Seeds of one method whose scores spread normally, on so many utterances that nothing else counts."""
    return [always(random.standard_normal()) for _ in range(number)]


def always(score):
    """The same score on every utterance."""
    return Statistics(np.full((40, 1), score / 40), lambda sums: sums[..., 0])


@pytest.mark.parametrize("seeds", [(1, 3), (3, 3), (3, 1)])
def test_p_is_as_rare_as_it_says_also_where_it_is_small(seeds, monkeypatch):
    """One estimate of the spread for two systems has no more degrees of freedom than for one."""
    monkeypatch.setattr(paired_bootstrap, "_t_quantile", lambda share, freedom: 0.0)  # p does not need it
    random = np.random.default_rng(0)
    p_values = np.array([paired_difference(trained_alike(random, seeds[0]), trained_alike(random, seeds[1]), 2, 0).p
                         for _ in range(3000)])
    assert np.mean(p_values < 0.05) == pytest.approx(0.045, abs=0.016)
    assert np.sum(p_values < 0.05 / 19) <= 18  # 8 expected


def test_what_was_not_trained_has_no_spread_of_seeds(monkeypatch):
    monkeypatch.setattr(paired_bootstrap, "_t_quantile", lambda share, freedom: 0.0)
    random = np.random.default_rng(0)
    fixed = [always(0.0)]
    p_values = np.array([paired_difference(fixed, trained_alike(random, 3), 2, 0, (False, True)).p
                         for _ in range(2000)])
    assert np.mean(p_values < 0.05) == pytest.approx(0.05, abs=0.015)


def test_few_families_of_equal_systems_have_one_that_survives_holms_correction(monkeypatch):
    monkeypatch.setattr(paired_bootstrap, "_t_quantile", lambda share, freedom: 0.0)
    random = np.random.default_rng(0)
    single = corrected = 0
    for _ in range(200):
        reference = trained_alike(random, 3)
        p_values = [paired_difference(trained_alike(random, number), reference, 2, 0).p
                    for number in [1] * 13 + [3] * 6]
        single += min(p_values) < 0.05
        corrected += min(holm(p_values)) < 0.05
    assert single >= 40 and corrected <= 17  # 10 expected at most


def test_other_utterances_are_refused():
    with pytest.raises(ValueError, match="same utterances"):
        paired_difference([of_flags([True])], [of_flags([True, False])], 10, 0)

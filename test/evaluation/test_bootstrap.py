"""The paired bootstrap against brute force, and its calibration."""

import math

import numpy as np
import pytest
import sacrebleu.metrics

from blspkd.evaluation import bootstrap
from blspkd.evaluation.bootstrap import Statistics, _t_quantile, _t_share_below, holm, paired_difference, ratio
from blspkd.evaluation.scorers import SCORERS, measure
from blspkd.evaluation.scorers.scorer import shares
from blspkd.evaluation_config import TaskConfig

REFERENCES = ["tom sold six bags", "anna sees the old tree", "we met in the park", "ben counts seven cups"]
HYPOTHESES = ["tom sold six bags", "anna sees an old tree in town", "we met in a dark park", ""]


def of_flags(flags):
    return Statistics(shares(flags), ratio)


@pytest.mark.parametrize("metric", SCORERS)
def test_the_statistics_of_all_utterances_give_the_score(metric):
    rows = [{"utt_id": str(number), "hypothesis": hypothesis, "reference": reference, "typed": reference,
             "transcript": reference}
            for number, (hypothesis, reference) in enumerate(zip(HYPOTHESES, REFERENCES, strict=True))]
    found = SCORERS[metric]().statistics(rows, TaskConfig())
    expected = measure(metric, rows, TaskConfig(), 10)[0].value
    assert found.score(found.table.sum(0)) == pytest.approx(expected, abs=1e-6)
    drawn = [2, 2, 0, 1]  # a draw of utterances, scored as a corpus of its own
    again = measure(metric, [rows[i] for i in drawn], TaskConfig(), 10)
    counts = np.bincount(drawn, minlength=4).astype(float)
    assert found.score(counts @ found.table) == pytest.approx(again[0].value, abs=1e-6)


@pytest.mark.parametrize("n", [6, 40])
@pytest.mark.parametrize("metric, name", [("bleu", "BLEU"), ("chrf", "CHRF")])
def test_sums_are_scored_as_sacrebleu_scores_their_utterances(metric, name, n):
    """To the last digit, also where nothing matches."""
    random = np.random.default_rng(n)
    words = np.array("tom sold six bags a . ' über 好".split())
    texts = [[" ".join(words[random.integers(len(words), size=random.integers(size, 9))]) for _ in range(n)]
             for size in (0, 1)]
    rows = [{"utt_id": "u", "hypothesis": hypothesis, "reference": reference}
            for hypothesis, reference in zip(*texts, strict=True)]
    found = SCORERS[metric]().statistics(rows, TaskConfig())
    drawn = [*random.integers(n, size=(20, n)), *np.arange(n)[:, None]]
    sums = np.array([found.table[draw].sum(axis=0) for draw in drawn])
    scorer = getattr(sacrebleu.metrics, name)()
    assert found.score(sums).tolist() == [
        scorer.corpus_score([texts[0][i] for i in draw], [[texts[1][i] for i in draw]]).score for draw in drawn]


def test_the_bootstrap_depends_on_the_seed_alone():
    resampled = Statistics(np.stack([np.arange(50) % 4, np.full(50, 5)], axis=1), ratio)
    assert resampled.interval(300, seed=3) == resampled.interval(300, seed=3)
    assert resampled.interval(300, seed=3) != resampled.interval(300, seed=4)


def test_the_bootstrap_equals_a_plain_loop():
    errors, totals = np.array([0, 3, 1, 0, 2]), np.array([4, 5, 6, 7, 8])
    resampled = Statistics(np.stack([errors, totals], axis=1), ratio)
    drawn = np.random.default_rng(7).integers(5, size=(40, 5))
    ratios = sorted(100 * sum(errors[i] for i in row) / sum(totals[i] for i in row) for row in drawn.tolist())

    def percentile(share):
        place = share * (len(ratios) - 1)
        below = int(place)
        return ratios[below] + (place - below) * (ratios[below + 1] - ratios[below])

    assert resampled.interval(40, seed=7) == pytest.approx((percentile(0.025), percentile(0.975)))


def test_the_interval_has_the_width_that_theory_expects():
    flags = np.arange(400) % 2 == 0
    assert of_flags(flags).value == pytest.approx(50)
    assert np.ptp(of_flags(flags).interval(2000, 0)) == pytest.approx(2 * 1.96 * 100 * 0.5 / 20, rel=0.1)


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
    return [[Statistics(np.stack([hard + shift + random.standard_normal(n), np.ones(n)], axis=1), ratio)]
            for shift in (gain, 0.0)]


def pair_of_error_rates(random, n, gain=0.0):
    """Words and errors of two runs: a ratio of sums over utterances of 3 to 24 words, some of them much harder."""
    words, hard = random.integers(3, 25, n), random.exponential(size=n)
    return [[Statistics(np.stack([np.minimum(words, random.poisson(0.1 * words * hard * (1 + shift))), words],
                                 axis=1).astype(float), ratio)] for shift in (gain, 0.0)]


@pytest.mark.parametrize("pair", [pair_of_equals, pair_of_error_rates])
@pytest.mark.parametrize("n", [20, 50])
def test_few_utterances_call_equal_systems_different_as_rarely_as_many(n, pair, monkeypatch):
    monkeypatch.setattr(bootstrap, "_t_quantile", lambda share, freedom: 0.0)  # p does not need it
    random = np.random.default_rng(n)
    called = np.mean([paired_difference(*pair(random, n), 200, trial).p < 0.05 for trial in range(2000)])
    assert 0.035 <= called <= 0.065  # before the correction, at n = 20: 0.075


@pytest.mark.parametrize(("pair", "n", "least"), [(pair_of_equals, 6, 0.2), (pair_of_equals, 20, 0.8),
                                                  (pair_of_error_rates, 20, 0.6), (pair_of_error_rates, 50, 0.95)])
def test_few_utterances_suffice_for_large_differences(pair, n, least, monkeypatch):
    monkeypatch.setattr(bootstrap, "_t_quantile", lambda share, freedom: 0.0)
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
    monkeypatch.setattr(bootstrap, "_t_quantile", lambda share, freedom: 0.0)  # p does not need it
    random = np.random.default_rng(0)
    p_values = np.array([paired_difference(trained_alike(random, seeds[0]), trained_alike(random, seeds[1]), 2, 0).p
                         for _ in range(3000)])
    assert np.mean(p_values < 0.05) == pytest.approx(0.045, abs=0.016)
    assert np.sum(p_values < 0.05 / 19) <= 18  # 8 expected


def test_what_was_not_trained_has_no_spread_of_seeds(monkeypatch):
    monkeypatch.setattr(bootstrap, "_t_quantile", lambda share, freedom: 0.0)
    random = np.random.default_rng(0)
    fixed = [always(0.0)]
    p_values = np.array([paired_difference(fixed, trained_alike(random, 3), 2, 0, (False, True)).p
                         for _ in range(2000)])
    assert np.mean(p_values < 0.05) == pytest.approx(0.05, abs=0.015)


def test_few_families_of_equal_systems_have_one_that_survives_holms_correction(monkeypatch):
    monkeypatch.setattr(bootstrap, "_t_quantile", lambda share, freedom: 0.0)
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


def test_draws_without_a_reference_are_not_significant():
    empty = np.array([[0.0, 0.0]] * 7 + [[1.0, 3.0]])
    better = np.array([[0.0, 0.0]] * 7 + [[0.0, 3.0]])
    with np.errstate(invalid="ignore"):
        found = paired_difference([Statistics(better, ratio)], [Statistics(empty, ratio)], 200, 0)
    assert found.ci95 is None and found.p is None and not found.significant

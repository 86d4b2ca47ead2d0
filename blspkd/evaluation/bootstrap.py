"""Utterances drawn with replacement: intervals, and is the difference of two systems real?

Every metric here is a function of sums over utterances (n-gram counts for BLEU, errors and words for
WER), so that a resampled score is a product of draw counts with one small row of statistics per
utterance. Both systems are scored on the same draws. Other seeds would give other models: the
variance of the scores over seeds is added to that over utterances, and the interval is Student's t
with Welch's degrees of freedom, which are few. A system that was trained once is taken to spread like
the other one; where both were trained once, only the utterances count.

The draws give a variance, and p comes from Student's distribution: it is not limited to multiples of
1/num_bootstrap, so that it can be corrected for many comparisons (`holm`). Few utterances understate
their own spread: their variance is widened by n / (n - 1) and has n - 1 degrees of freedom. They
bound p too: were there no difference, all n would point the same way with a probability of 2 / 2**n,
so that p is never less, also where they all differ by the same amount.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 6  # utterances for a test: with 5 even the least p, 2 / 2**5, is above 0.05
DRAWS_PER_BLOCK = 100  # bounds the memory to this many rows of drawn utterances at a time


def interval(statistic: Callable[[np.ndarray], Sequence[float]], n: int, num_bootstrap: int,
             seed: int) -> tuple[float, float]:
    """95% percentile interval of a statistic of n utterances.

    statistic: drawn utterances [R, n], numbers from 0 to n - 1 -> R values. The same seed and n
    draw the same utterances, so that two systems are resampled alike.
    """
    random, values = np.random.default_rng(seed), []
    for start in range(0, num_bootstrap, DRAWS_PER_BLOCK):
        size = min(DRAWS_PER_BLOCK, num_bootstrap - start), n
        values.append(statistic(random.integers(n, size=size)))  # [R]
    low, high = np.percentile(np.concatenate(values), [2.5, 97.5])
    return float(low), float(high)


def ratio(sums: np.ndarray) -> np.ndarray:
    """[..., 2] -> percent of the second that the first is [...]."""
    return 100 * sums[..., 0] / sums[..., 1]


@dataclass(frozen=True)
class Statistics:
    """What a metric adds up, and its score."""

    table: np.ndarray  # [n, K], one row per utterance
    score: Callable[[np.ndarray], np.ndarray]  # sums [..., K] -> percentages [...]

    @property
    def value(self) -> float:
        return float(self.score(self.table.sum(axis=0)))

    def interval(self, num_bootstrap: int, seed: int) -> tuple[float, float]:
        """95%, as percentiles."""
        def resampled(drawn: np.ndarray) -> np.ndarray:
            sums = [column[drawn].sum(axis=1) for column in self.table.T]
            return self.score(np.stack(sums, axis=1))

        return interval(resampled, len(self.table), num_bootstrap, seed)


@dataclass(frozen=True)
class Difference:
    """Mean over seeds of one system minus that of another; with fewer than FEWEST utterances that is all."""

    value: float
    ci95: tuple[float, float] | None = None
    p: float | None = None  # two-sided

    @property
    def significant(self) -> bool:
        """The 95 % interval excludes 0."""
        return self.ci95 is not None and not self.ci95[0] <= 0 <= self.ci95[1]


def paired_difference(system: Sequence[Statistics], reference: Sequence[Statistics], num_bootstrap: int, seed: int,
                      trained: tuple[bool, bool] = (True, True)) -> Difference:
    """system - reference; both are one entry per training seed, over the same utterances in the same order.

    trained: which of the two another seed would change.
    """
    n = len(reference[0].table)
    if any(len(run.table) != n for run in (*system, *reference)):
        raise ValueError("paired_difference needs the same utterances in every run")
    own, theirs = ([run.value for run in runs] for runs in (system, reference))
    value = float(np.mean(own) - np.mean(theirs))
    if n < FEWEST:
        return Difference(value)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=num_bootstrap).astype(np.float64)
    resampled = np.mean([run.score(draws @ run.table) for run in system], axis=0) - np.mean(
        [run.score(draws @ run.table) for run in reference], axis=0)
    if not np.isfinite(resampled).all():  # some draws hold no word of a reference at all
        return Difference(value)
    variances = [(float(resampled.var(ddof=1)) * n / (n - 1), n - 1), *_seed_variances(own, theirs, trained)]
    error = math.sqrt(sum(variance for variance, _ in variances))
    if error == 0:
        return Difference(value, (value, value), 2.0 ** (1 - n) if value else 1.0)
    freedom = min(error**4 / sum(variance**2 / freedom for variance, freedom in variances), 1e4)
    reach = _t_quantile(0.975, freedom) * error
    p = max(2 * (1 - _t_share_below(abs(value) / error, freedom)), 2.0 ** (1 - n))
    return Difference(value, (value - reach, value + reach), p)


def holm(p_values: Sequence[float]) -> list[float]:
    """p, adjusted so that of several comparisons without any true difference hardly one in twenty families has
    p < 0.05.

    Holm (1979): the smallest is multiplied by their number, the next by one less ...; however they depend on one
    another.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def _seed_variances(own: Sequence[float], theirs: Sequence[float],
                    trained: tuple[bool, bool]) -> list[tuple[float, int]]:
    """Of the difference of their means: one variance for each system with several seeds, with its degrees of freedom.

    It counts for the other system too where that was trained once: still one estimate, with no more freedom than it
    has.
    """
    several = [scores for scores in (own, theirs) if len(scores) > 1]
    trained_once = sum(varies and len(scores) == 1 for varies, scores in zip(trained, (own, theirs), strict=True))
    return [(float(np.var(scores, ddof=1)) * (1 / len(scores) + trained_once), len(scores) - 1) for scores in several]


def _t_share_below(t: float, freedom: float) -> float:
    """Student's distribution function at t >= 0, by the trapezoidal rule."""
    x = np.linspace(0, t, 4001)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    density = scale * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    return min(1.0, 0.5 + float((density.sum() - (density[0] + density[-1]) / 2) * (x[1] - x[0])))


def _t_quantile(share: float, freedom: float) -> float:
    low, high = 0.0, 1e3
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_share_below(middle, freedom) < share else (low, middle)
    return high

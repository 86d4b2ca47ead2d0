"""Is the difference of two systems real? Paired bootstrap over utterances and seeds.

Every metric here is a function of sums over utterances (n-gram counts for BLEU, errors and words for WER), so that a
resampled score is a product of draw counts with one small row of statistics per utterance. Both systems are scored on
the same draws of utterances. Where a system was trained with several seeds, its seeds are drawn as well: an interval
that excludes 0 then speaks for the method and not for one lucky run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from blspkd.config import TaskConfig
from blspkd.evaluation.metrics import count_edits, normalize


@dataclass(frozen=True)
class Statistics:
    """What a metric adds up: `table` [n, K], one row per utterance; `score` maps sums [..., K] to percentages [...]."""

    table: np.ndarray
    score: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Difference:
    """Mean over seeds of one system minus that of another."""

    value: float
    ci95: tuple[float, float]
    p: float  # two-sided: twice the smaller share of draws on either side of 0

    @property
    def significant(self) -> bool:
        """The 95 % interval excludes 0."""
        return self.ci95[0] > 0 or self.ci95[1] < 0


def statistics(metric: str, hypotheses: Sequence[str], references: Sequence[str], task: TaskConfig) -> Statistics:
    """Statistics of `metric` (bleu, chrf, exact_match, wer, cer), scored as `metrics.compute` does."""
    if metric in ("bleu", "chrf"):
        return _sacrebleu(metric, hypotheses, references, task)
    fold = normalize if task.normalize else lambda text: " ".join(text.split())
    hypotheses, references = [fold(text) for text in hypotheses], [fold(text) for text in references]
    if metric == "exact_match":
        return of_flags([h == r for h, r in zip(hypotheses, references, strict=True)])
    edits = count_edits(hypotheses, references, characters=metric == "cer")
    return Statistics(np.stack([edits.errors, edits.reference], axis=1).astype(np.float64), _ratio)


def of_flags(flags: Sequence[bool]) -> Statistics:
    """The percentage of utterances for which something is true."""
    flags = np.asarray(flags, dtype=np.float64)
    return Statistics(np.stack([flags, np.ones_like(flags)], axis=1), _ratio)


def paired_difference(system: Sequence[Statistics], reference: Sequence[Statistics], num_bootstrap: int,
                      seed: int) -> Difference:
    """system - reference; both are one entry per training seed, over the same utterances in the same order."""
    n = len(reference[0].table)
    if any(len(run.table) != n for run in (*system, *reference)):
        raise ValueError("paired_difference needs the same utterances in every run")
    random = np.random.default_rng(seed)
    draws = random.multinomial(n, np.full(n, 1 / n), size=num_bootstrap).astype(np.float64)
    resampled = _resampled_mean(system, draws, random) - _resampled_mean(reference, draws, random)
    low, high = np.percentile(resampled, [2.5, 97.5])
    tail = min((resampled <= 0).mean(), (resampled >= 0).mean())
    return Difference(_mean(system) - _mean(reference), (float(low), float(high)), min(1.0, 2 * float(tail)))


def _mean(runs: Sequence[Statistics]) -> float:
    return float(np.mean([run.score(run.table.sum(0)) for run in runs]))


def _resampled_mean(runs: Sequence[Statistics], draws: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Score of every draw [R, n], averaged over seeds that are drawn as well."""
    scores = np.stack([run.score(draws @ run.table) for run in runs], axis=1)  # [R, seeds]
    chosen = random.integers(len(runs), size=scores.shape)
    return np.take_along_axis(scores, chosen, axis=1).mean(axis=1)


def _ratio(sums: np.ndarray) -> np.ndarray:
    return 100 * sums[..., 0] / sums[..., 1]


def _sacrebleu(metric: str, hypotheses: Sequence[str], references: Sequence[str], task: TaskConfig) -> Statistics:
    from sacrebleu.metrics import BLEU, CHRF

    scorer = BLEU(tokenize=task.bleu_tokenize) if metric == "bleu" else CHRF()
    table = np.array(scorer._extract_corpus_statistics(list(hypotheses), [list(references)]), dtype=np.float64)

    def score(sums: np.ndarray) -> np.ndarray:
        rows = sums.reshape(-1, sums.shape[-1])
        return np.array([scorer._compute_score_from_stats(row.tolist()).score for row in rows]).reshape(sums.shape[:-1])

    return Statistics(table, score)

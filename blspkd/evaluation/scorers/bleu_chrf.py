"""BLEU and chrF as sacreBLEU computes them, on the text as it was written.

The intervals are sacreBLEU's own (its mean of the resampled scores plus and minus half their 95%
range, drawn by its own seed), so that its signature tells everything.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from blspkd.errors import ConfigError
from blspkd.evaluation.scorers.scorer import Score, Scorer
from blspkd.evaluation.scorers.texts import folded
from blspkd.evaluation_config import TaskConfig

SEED = 12345  # sacreBLEU's


class SacreBleu(Scorer):
    """What the two share."""

    @abstractmethod
    def metric(self, task: TaskConfig):
        """A metric of sacreBLEU. Raises ConfigError for a tokenizer that it cannot use."""

    @abstractmethod
    def utterance(self, metric, hypothesis: str, reference: str) -> list[int]:
        """Its row of the table."""

    def table(self, rows: Sequence[Mapping], task: TaskConfig) -> np.ndarray:
        folded(rows, normalized=False)  # no reference is empty
        metric = self.metric(task)
        return np.array([self.utterance(metric, row["hypothesis"], row["reference"])
                         for row in rows], dtype=np.float64)

    def measure(self, metric: str, rows: Sequence[Mapping], task: TaskConfig,
                num_bootstrap: int, seed: int) -> list[Score]:
        statistics, scorer = self.statistics(rows, task), self.metric(task)
        texts = [row["hypothesis"] for row in rows], [[row["reference"] for row in rows]]
        try:
            score = scorer.corpus_score(*texts, n_bootstrap=num_bootstrap)
            # Private: in public a score gives them only as text, without its float32.
            low, high = max(0.0, score._mean - score._ci), min(100.0, score._mean + score._ci)
        except TypeError:  # sacreBLEU 2.6 cannot average chrF over draws of which some are exactly 0
            low, high = statistics.interval(min(num_bootstrap, 200), SEED)
        return [Score(metric, statistics.value, (float(low), float(high)), len(rows),
                      str(scorer.get_signature()))]


class Bleu(SacreBleu):
    """Columns: words of hypothesis and reference; 1- to 4-grams that both have; all 1- to 4-grams."""

    label = "BLEU"
    cited = "sacreBLEU"

    def metric(self, task: TaskConfig):
        from sacrebleu.metrics import BLEU

        try:
            return BLEU(tokenize=task.bleu_tokenize)
        except (KeyError, ImportError, RuntimeError) as error:  # unknown, or an extra is missing
            raise ConfigError(f"bleu_tokenize: sacreBLEU cannot use '{task.bleu_tokenize}': "
                              f"{error}") from None

    def utterance(self, metric, hypothesis: str, reference: str) -> list[int]:
        score = metric.corpus_score([hypothesis], [[reference]])
        return [score.sys_len, score.ref_len, *score.counts, *score.totals]

    def score(self, sums: np.ndarray) -> np.ndarray:
        from sacrebleu.metrics import BLEU

        smoothing = BLEU().smooth_method
        scores = [BLEU.compute_bleu(row[2:6], row[6:], int(row[0]), int(row[1]), smoothing).score
                  for row in sums.reshape(-1, sums.shape[-1]).tolist()]
        return np.array(scores).reshape(sums.shape[:-1])


class Chrf(SacreBleu):
    """Columns: for n from 1 to 6, character n-grams of the hypothesis, the reference, and both."""

    label = "chrF"

    def metric(self, task: TaskConfig):
        from sacrebleu.metrics import CHRF

        return CHRF()

    def utterance(self, metric, hypothesis: str, reference: str) -> list[int]:
        from sacrebleu.metrics.helpers import extract_all_char_ngrams

        counts = []
        for own, wanted in zip(*(extract_all_char_ngrams(text, metric.char_order, metric.whitespace)
                                 for text in (hypothesis, reference)), strict=True):
            # Where the reference has no n-gram of this length, the hypothesis's do not count.
            counts += [own.total() if wanted else 0, wanted.total(), (own & wanted).total()]
        return counts

    def score(self, sums: np.ndarray) -> np.ndarray:
        """F2 of precision and recall, means over the lengths of n-grams that both sides have.

        Popović (2015); operation by operation as sacreBLEU, which has no public function for it.
        """
        from sacrebleu.metrics import CHRF

        own, wanted, both = (sums[..., column::3] for column in range(3))  # [..., 6] each
        counted = (own > 0) & (wanted > 0)
        lengths = np.maximum(counted.sum(axis=-1), 1)
        precision, recall = (
            np.divide(both, total, out=np.zeros_like(total), where=counted).sum(axis=-1) / lengths
            for total in (own, wanted))
        factor = CHRF.BETA**2
        score = (1 + factor) * precision * recall
        divisor = factor * precision + recall
        return 100 * np.divide(score, divisor, out=np.zeros_like(score), where=divisor > 0)

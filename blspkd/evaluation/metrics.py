"""Corpus metrics with 95% bootstrap intervals: BLEU and chrF (sacreBLEU), WER and CER (jiwer), exact match.

All values are percentages. BLEU and chrF see the text as it was written, and their intervals are sacreBLEU's own (its
mean of the resampled scores plus and minus half the 95% range), so that a signature tells everything. WER, CER and
exact match see normalised text (`normalize`) unless the task says `normalize: false`; their intervals are the 2.5 and
97.5 percentiles over resampled utterances. With few utterances an interval is too narrow: of 5, 10, 20 and 50 it holds
the true value about 80, 90, 92 and 94 times in 100; of one it has no width.
"""

import importlib.metadata
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from blspkd.config import TaskConfig
from blspkd.errors import ConfigError, DataError

APOSTROPHES = "'\u2019\u02bc`\u00b4"  # deleted, where other punctuation becomes a space: don't -> dont
KNOWN = frozenset(["bleu", "chrf", "exact_match", "count_accuracy",
                   *(error + part for error in ("wer", "cer") for part in ("", "_sub", "_del", "_ins", "_sent"))])
RESAMPLES_PER_BLOCK = 100  # bounds the bootstrap's memory to this many index rows at a time


@dataclass(frozen=True)
class Score:
    """One number: `value` and its interval are percentages, `signature` says how it was computed."""

    metric: str
    value: float
    ci95: tuple[float, float]
    n: int  # utterances
    signature: str


@dataclass(frozen=True)
class Edits:
    """Edit counts, one entry per utterance: int64 [n] each."""

    reference: np.ndarray  # units (words or characters) in the reference
    substitutions: np.ndarray
    deletions: np.ndarray
    insertions: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        return self.substitutions + self.deletions + self.insertions


def normalize(text: str) -> str:
    """Lower case, compatibility forms composed (NFKC), apostrophes deleted, other punctuation and white space folded.

    Punctuation is Unicode's categories P*; symbols such as + and $, and all marks and letters of any script, stay.
    """
    text = unicodedata.normalize("NFKC", text.translate({ord(mark): None for mark in APOSTROPHES}))
    text = unicodedata.normalize("NFKC", text.lower())
    return " ".join("".join(" " if unicodedata.category(c).startswith("P") else c for c in text).split())


def compute(metric: str, utt_ids: Sequence[str], hypotheses: Sequence[str], references: Sequence[str],
            task: TaskConfig, num_bootstrap: int = 1000, seed: int = 0) -> list[Score]:
    """Score `hypotheses` against `references`; the first row is `metric`, further rows are its parts.

    "wer" and "cer" also give `<metric>_sub`, `_del`, `_ins` (percent of reference units) and `_sent` (percent of
    utterances with an error). Raises DataError for an empty reference (naming it by `utt_ids`) or an empty set.
    """
    if not len(utt_ids) == len(hypotheses) == len(references):
        raise ValueError(f"{len(utt_ids)} ids, {len(hypotheses)} hypotheses and {len(references)} references")
    if not utt_ids:
        raise DataError(f"{metric}: there is no utterance to score")
    fold = _fold_of(metric, task)
    for utt_id, reference in zip(utt_ids, references, strict=True):
        if not fold(reference):
            rest = f"; nothing is left of {reference!r} after normalising" if reference.strip() else ""
            raise DataError(f"utterance {utt_id}: its reference is empty{rest}; write one or leave the utterance out")
    if metric in ("bleu", "chrf"):
        return [_sacrebleu(metric, list(hypotheses), list(references), task.bleu_tokenize, num_bootstrap)]
    hypotheses, references = [fold(text) for text in hypotheses], [fold(text) for text in references]
    if metric == "exact_match":
        return [percent_true(metric, [h == r for h, r in zip(hypotheses, references, strict=True)], num_bootstrap, seed,
                             text_signature(task))]
    if metric in ("wer", "cer"):
        edits = count_edits(hypotheses, references, characters=metric == "cer")
        signature = (f"{text_signature(task)}|bs:{num_bootstrap}|seed:{seed}"
                     f"|version:jiwer-{importlib.metadata.version('jiwer')}")
        parts = {"": edits.errors, "_sub": edits.substitutions, "_del": edits.deletions, "_ins": edits.insertions}
        scores = [_ratio(metric + part, errors, edits.reference, num_bootstrap, seed, signature)
                  for part, errors in parts.items()]
        wrong = edits.errors > 0
        return [*scores, _ratio(f"{metric}_sent", wrong, np.ones_like(edits.errors), num_bootstrap, seed, signature)]
    raise ConfigError(f"metrics: '{metric}' is not one of bleu, chrf, exact_match, wer, cer")


def text_signature(task: TaskConfig) -> str:
    """What WER, CER and exact match do to the texts first."""
    return "case:lower|punct:stripped|form:nfkc" if task.normalize else "case:mixed|punct:kept"


def exact_matches(hypotheses: Sequence[str], references: Sequence[str], task: TaskConfig) -> np.ndarray:
    """Whether each hypothesis is its reference, as `compute` sees them: bool [n]."""
    fold = _fold_of("exact_match", task)
    return np.array([fold(h) == fold(r) for h, r in zip(hypotheses, references, strict=True)])


def percent_true(metric: str, flags: Sequence[float], num_bootstrap: int, seed: int, signature: str) -> Score:
    """The percentage of `flags` that are true; shares between 0 and 1 count as such."""
    flags = np.asarray(flags, dtype=np.float64)
    signature = f"{signature}|bs:{num_bootstrap}|seed:{seed}"
    return _ratio(metric, flags, np.ones_like(flags), num_bootstrap, seed, signature)


def percent_of(metric: str, found: Sequence[float], totals: Sequence[float], num_bootstrap: int, seed: int,
               signature: str) -> Score:
    """100 * sum(found) / sum(totals), one entry per utterance each; no total is 0."""
    signature = f"{signature}|bs:{num_bootstrap}|seed:{seed}"
    return _ratio(metric, np.asarray(found, dtype=np.float64), np.asarray(totals, dtype=np.float64), num_bootstrap,
                  seed, signature)


def count_edits(hypotheses: Sequence[str], references: Sequence[str], characters: bool = False) -> Edits:
    """Minimal edits hypothesis by hypothesis, in words or (spaces included) in characters; no reference is empty."""
    import jiwer

    process = jiwer.process_characters if characters else jiwer.process_words
    output = process(list(references), list(hypotheses))
    counts = {"substitute": [], "delete": [], "insert": []}
    for chunks in output.alignments:
        for kind, found in counts.items():
            found.append(sum(max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
                             for chunk in chunks if chunk.type == kind))
    arrays = [np.array(found, dtype=np.int64) for found in counts.values()]
    return Edits(np.array([len(units) for units in output.references], dtype=np.int64), *arrays)


def bootstrap_ratio(errors: np.ndarray, totals: np.ndarray, num_bootstrap: int, seed: int) -> tuple[float, float]:
    """95% percentile interval of 100 * sum(errors) / sum(totals) over utterances drawn with replacement.

    errors, totals: [n], one entry per utterance. The same seed and n draw the same utterances, so that two systems
    are resampled alike.
    """
    random = np.random.default_rng(seed)
    ratios = []
    for start in range(0, num_bootstrap, RESAMPLES_PER_BLOCK):
        rows = min(RESAMPLES_PER_BLOCK, num_bootstrap - start)
        drawn = random.integers(len(errors), size=(rows, len(errors)))
        ratios.append(100.0 * errors[drawn].sum(axis=1) / totals[drawn].sum(axis=1))
    low, high = np.percentile(np.concatenate(ratios), [2.5, 97.5])
    return float(low), float(high)


def _ratio(metric: str, errors: np.ndarray, totals: np.ndarray, num_bootstrap: int, seed: int, signature: str) -> Score:
    value = 100.0 * float(errors.sum()) / float(totals.sum())
    return Score(metric, value, bootstrap_ratio(errors, totals, num_bootstrap, seed), len(errors), signature)


def _sacrebleu(metric: str, hypotheses: list[str], references: list[str], tokenize: str, num_bootstrap: int) -> Score:
    from sacrebleu.metrics import BLEU, CHRF

    try:
        scorer = BLEU(tokenize=tokenize) if metric == "bleu" else CHRF()
    except (KeyError, ImportError, RuntimeError) as error:  # an unknown name, or an extra that is not installed
        raise ConfigError(f"bleu_tokenize: sacreBLEU cannot use '{tokenize}': {error}") from None
    try:
        score = scorer.corpus_score(hypotheses, [references], n_bootstrap=num_bootstrap)
        low, high = max(0.0, score._mean - score._ci), min(100.0, score._mean + score._ci)
    except TypeError:  # sacreBLEU 2.6 cannot average chrF over resamples of which some are exactly 0
        score = scorer.corpus_score(hypotheses, [references])
        low, high = _resampled_interval(scorer, hypotheses, references, min(num_bootstrap, 200))
    return Score(metric, float(score.score), (float(low), float(high)), len(hypotheses), str(scorer.get_signature()))


def _resampled_interval(scorer, hypotheses: list[str], references: list[str],
                        num_bootstrap: int) -> tuple[float, float]:
    """95% percentile interval of a sacreBLEU score over sentences drawn with replacement."""
    generator = np.random.default_rng(12345)  # sacreBLEU's own seed
    scores = []
    for _ in range(num_bootstrap):
        drawn = generator.integers(0, len(hypotheses), len(hypotheses))
        scores.append(scorer.corpus_score([hypotheses[i] for i in drawn], [[references[i] for i in drawn]]).score)
    return tuple(np.percentile(scores, (2.5, 97.5)))


def _fold(text: str) -> str:
    return " ".join(text.split())


def _fold_of(metric: str, task: TaskConfig) -> Callable[[str], str]:
    return _fold if metric in ("bleu", "chrf") or not task.normalize else normalize

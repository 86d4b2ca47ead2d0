"""Metrics by the names that tasks and results.json give them.

A new one is a file here with a class (see `Scorer`) and a line in `SCORERS`; the shortest example is exact_match.py.
Importing this loads neither models nor the packages that count words.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from blspkd.config_file import load_config, nearest
from blspkd.errors import ConfigError, DataError
from blspkd.evaluation.scorers.agreement import AgreementChrf, AgreementExact, AgreementFirstWord
from blspkd.evaluation.scorers.bad_answer import BadAnswer
from blspkd.evaluation.scorers.bleu_chrf import Bleu, Chrf
from blspkd.evaluation.scorers.contains import Contains
from blspkd.evaluation.scorers.errors import CharacterErrorRate, WordErrorRate
from blspkd.evaluation.scorers.exact_match import ExactMatch
from blspkd.evaluation.scorers.health import Copied, Empty, Foreign, Health, LengthRatio, Looped
from blspkd.evaluation.scorers.scorer import Score, Scorer
from blspkd.evaluation.scorers.token_count import CountAccuracy
from blspkd.evaluation_config import DecodeConfig, TaskConfig

SCORERS: dict[str, type[Scorer]] = {  # what a task's `metrics` may name
    "bleu": Bleu,
    "chrf": Chrf,
    "exact_match": ExactMatch,
    "contains": Contains,
    "agreement_exact": AgreementExact,
    "agreement_chrf": AgreementChrf,
    "agreement_first_word": AgreementFirstWord,
    "bad_answer": BadAnswer,
    "wer": WordErrorRate,
    "cer": CharacterErrorRate,
}
HEALTH: dict[str, type[Health]] = {  # measured of every task
    "empty": Empty,
    "looped": Looped,
    "copied": Copied,
    "foreign": Foreign,
    "length_ratio": LengthRatio,
}
COUNTS: dict[str, type[Scorer]] = {  # of an adapter that counts tokens, on the first task
    "count_accuracy": CountAccuracy,
}


def scorer(metric: str) -> Scorer:
    """Raises ConfigError for a name that is none of SCORERS."""
    if metric not in SCORERS:
        raise ConfigError(f"metrics: there is no '{metric}'; {nearest(metric, SCORERS)}")
    return SCORERS[metric]()


def measure(metric: str, rows: Sequence[Mapping], task: TaskConfig, num_bootstrap: int = 1000,
            seed: int = 0) -> list[Score]:
    """Rows of `hyp.jsonl` (`utt_id`, `hypothesis`, `reference`) by one of SCORERS; its parts follow.

    Raises DataError for no row or an empty reference.
    """
    if not rows:
        raise DataError(f"{metric}: there is no utterance to score")
    return scorer(metric).measure(metric, rows, task, num_bootstrap, seed)


def measure_health(rows: Sequence[Mapping], num_bootstrap: int, seed: int) -> list[Score]:
    """All of HEALTH; what cannot be judged (no word in any hypothesis) is left out."""
    return [score for name, kind in HEALTH.items()
            for score in kind().measure(name, rows, TaskConfig(), num_bootstrap, seed)]


def with_parts(scorers: Mapping[str, type[Scorer]]) -> dict[str, type[Scorer]]:
    """By the names of all that they measure: wer, wer_sub ..."""
    return {name + part: kind for name, kind in scorers.items() for part in ("", *kind.parts)}


def mean_metric(config: DecodeConfig, mean: str) -> str:
    """The metric whose mean over tasks `means` asks for under this name. Raises ConfigError."""
    first, *others = [[metric for metric in config.tasks[task].metrics if scorer(metric).averages]
                      for task in config.means[mean]]
    for metric in first:
        if all(metric in metrics for metrics in others):
            return metric
    known = ", ".join(name for name, kind in SCORERS.items() if kind.averages)
    raise ConfigError(f"means: {mean}: {', '.join(config.means[mean])} have no metric in common that "
                      f"has a mean over tasks: {known}")


def load_decode_config(path: str | Path | None = None,
                       overrides: Sequence[str] = ()) -> DecodeConfig:
    """`conf/decode.yaml`, its metrics checked; imports nothing heavy. Raises ConfigError."""
    config = load_config(DecodeConfig, path, list(overrides))
    try:
        for task in config.tasks.values():
            for metric in task.metrics:
                scorer(metric)
        for mean in config.means:
            mean_metric(config, mean)
    except ConfigError as error:
        raise ConfigError(f"{path or 'defaults'}: {error}") from None
    return config

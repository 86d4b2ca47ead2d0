"""Scores by the year of the test utterances (`utt2date`): does a model age with its data?

A Pretrainer's Guide (arXiv 2305.13169, section 4) trains on slices of years and evaluates on years. Here every model is
an experiment exp/<tag>, a row; the years of its own training are those of `data.operations: [{name: filter, years:
[2019]}]` in its config.yaml, if it has them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from blspkd.errors import ConfigError, DataError
from blspkd.evaluation import scorers
from blspkd.evaluation.decode_dir import decode_dir_path, read_finished
from blspkd.evaluation.scorers.scorer import Score
from blspkd.evaluation.typed import with_typed
from blspkd.evaluation_config import DecodeConfig
from blspkd.kaldi.columns import parse_year, read_column


@dataclass(frozen=True)
class YearScores:
    """A row of the matrix."""

    name: str  # of the experiment's folder
    trained_on: tuple[int, ...]  # years; empty: unknown
    scores: dict[int, Score]  # year of the test utterances -> score


def scores_by_year(exp_dir: str | Path, config: DecodeConfig, task: str, metric: str, test_sets: Sequence[str],
                   data_dir: str | Path, system: str = "speech") -> YearScores:
    """Score what is decoded in `exp_dir`, all `test_sets` together, year by year.

    data_dir: the folder of the sets, each with utt2date. Raises ConfigError for a task or metric that is not there,
    DataError for a set that is not decoded or has no dates.
    """
    if task not in config.tasks:
        raise ConfigError(f"task: there is no '{task}'; known: {', '.join(config.tasks)}")
    scorers.scorer(metric)
    exp_dir, by_year = Path(exp_dir), {}
    for name in test_sets:
        answers = with_typed(read_finished(decode_dir_path(exp_dir, task, name, system)), exp_dir, task, name, system,
                             config)
        years = read_column(Path(data_dir) / name / "utt2date", [row["utt_id"] for row in answers], parse_year)
        for row in answers:
            by_year.setdefault(years[row["utt_id"]], []).append(row)
    scores = {}
    for year, rows in sorted(by_year.items()):
        # a metric's parts follow it; where no utterance can be judged there is none
        for score in scorers.measure(metric, rows, config.tasks[task], config.num_bootstrap, config.seed)[:1]:
            scores[year] = score
    return YearScores(exp_dir.name, trained_years(exp_dir), scores)


def trained_years(exp_dir: Path) -> tuple[int, ...]:
    """What the filters of a training let in; of several, what all of them do. Raises DataError."""
    path = exp_dir / "config.yaml"
    try:
        operations = yaml.safe_load(path.read_text(encoding="utf-8")).get("data", {}).get("operations") or []
    except FileNotFoundError:
        raise DataError(f"{path}: missing; train first (stage 3), or name the folder that stage 3 wrote") from None
    except (yaml.YAMLError, AttributeError) as error:
        raise DataError(f"{path}: is no configuration of a training ({error!r})") from None
    limits = [set(map(int, entry["years"])) for entry in operations
              if entry.get("name") == "filter" and entry.get("years")]
    return tuple(sorted(set.intersection(*limits))) if limits else ()


def same_and_other_years(rows: Sequence[YearScores]) -> tuple[float, float] | None:
    """Mean score where a model is tested on a year it was trained on, and where not; None where either is missing."""
    cells = [(year in row.trained_on, score.value) for row in rows if row.trained_on
             for year, score in row.scores.items()]
    same, other = ([value for is_same, value in cells if is_same is wanted] for wanted in (True, False))
    return (sum(same) / len(same), sum(other) / len(other)) if same and other else None

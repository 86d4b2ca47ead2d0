"""From finished decode directories to `score.json` files, `results.json` and the examples that a report shows."""

import dataclasses
import json
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from pathlib import Path

import numpy as np
import yaml

from blspkd.config import ModelConfig
from blspkd.config_file import from_dict
from blspkd.errors import ConfigError, DataError
from blspkd.evaluation import scorers
from blspkd.evaluation.bootstrap import Statistics
from blspkd.evaluation.cascade import NO_ADAPTER
from blspkd.evaluation.decode_dir import decode_dir_path, read_finished
from blspkd.evaluation.results import Row, update_results
from blspkd.evaluation.scorers.scorer import Score, scored
from blspkd.evaluation.slices import slices
from blspkd.evaluation.typed import with_typed
from blspkd.evaluation_config import DecodeConfig, TaskConfig
from blspkd.files import atomic_write

log = logging.getLogger(__name__)
MANY_UNFINISHED = 0.05  # share of answers cut off at max_new_tokens that is worth a warning


@dataclass(frozen=True)
class Experiment:
    """What `exp/<tag>/config.yaml` says about the trained model."""

    system: str  # its name in results.json
    seed: int | None
    counts_tokens: bool  # the adapter decides on a number of tokens that can be compared with the transcript's
    trains_llm: bool = False  # weights inside the LLM were trained


def read_experiment(exp_dir: str | Path) -> Experiment:
    """Raises DataError where the file is missing or says no system or seed."""
    path = Path(exp_dir) / "config.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        seed = values["training"]["seed"]
        model = values.get("model", {})
        return Experiment(str(values["system"]), None if seed is None else int(seed), _counts_tokens(model),
                          int(model.get("plora_rank", 0)) > 0)
    except FileNotFoundError:
        raise DataError(f"{path}: missing; train first (stage 3), or name the folder that stage 3 wrote") from None
    except (yaml.YAMLError, TypeError, KeyError, ValueError) as error:
        raise DataError(f"{path}: no `system` and `training.seed` to be read there ({error!r})") from None


def _counts_tokens(model: dict) -> bool:
    if model.get("adapter") == NO_ADAPTER:
        return False
    from blspkd.models.adapters import adapter_gives  # takes seconds to import

    named = {key: model[key] for key in ("adapter", "adapter_options") if key in model}
    return "aligned" in adapter_gives(from_dict(ModelConfig, named))


def score_experiment(exp_dir: str | Path, config: DecodeConfig, test_sets: Sequence[str]) -> list[Row]:
    """Score every task and system of `config` on `test_sets`; returns all rows of the updated `results.json`.

    Rows of other systems, sets and metrics stay in the file. Also writes `examples.json`.
    Raises DataError for a decode directory that is missing or not finished.
    """
    exp_dir = Path(exp_dir)
    if not test_sets:
        raise ConfigError("test_sets: none was named")
    experiment = read_experiment(exp_dir)
    as_row = partial(_row, experiment=experiment, config=config)
    decoded = {(task, name, system): with_typed(read_finished(decode_dir_path(exp_dir, task, name, system)), exp_dir,
                                                task, name, system, config)
               for name in test_sets for task in config.tasks_of(name) for system in config.systems}
    rows: list[Row] = []
    for (task, set_name, system), answers in decoded.items():
        scores = score_decode_dir(decode_dir_path(exp_dir, task, set_name, system), task, answers, config)
        rows += [as_row(score, system, set_name, task) for score in scores]
        counts = config.by_count and (system == "cascade" or system == "speech" and experiment.counts_tokens)
        for part, own in slices(task, answers, config.tasks[task].by_first_word, counts).items():
            # errors are not told apart by kind: there may be few
            rows += [as_row(score, system, set_name, part)
                     for score in task_scores(own, task, config) if score.metric in config.tasks[task].metrics]
    for name, tasks in config.means.items():
        rows += [as_row(score, system, set_name, name) for set_name in test_sets for system in config.systems
                 if set(tasks) <= config.tasks_of(set_name).keys() and can_mean(name, system, config)
                 for score in mean_scores(name, {task: decoded[task, set_name, system] for task in tasks}, config)]
    firsts = {set_name: next(iter(tasks)) for set_name in test_sets if (tasks := config.tasks_of(set_name))}
    if "speech" in config.systems and experiment.counts_tokens:
        rows += [as_row(score, "speech", set_name, "alignment")
                 for set_name, first in firsts.items() for metric, kind in scorers.COUNTS.items()
                 for score in kind().measure(metric, decoded[first, set_name, "speech"], config.tasks[first],
                                             config.num_bootstrap, config.seed)]
    if "cascade" in config.systems:
        rows += [as_row(score, "cascade", set_name, "asr") for set_name, first in firsts.items()
                 for score in recogniser_scores(decoded[first, set_name, "cascade"], config)]
    examples = choose_examples(decoded, config, test_sets, experiment)
    with atomic_write(exp_dir / "examples.json") as file:
        json.dump(examples, file, indent=2, ensure_ascii=False)
    places = {(row.system, row.set) for row in rows}
    ours = scorers.with_parts(scorers.SCORERS | scorers.HEALTH | scorers.COUNTS)
    return update_results(exp_dir / "results.json", rows,
                          lambda row: (row.system, row.set) in places and row.metric in ours)


def score_decode_dir(path: Path, task: str, answers: list[dict], config: DecodeConfig) -> list[Score]:
    """Scores of one decode directory, also written to its `score.json`."""
    try:
        scores = task_scores(answers, task, config)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    scores += scorers.measure_health(answers, config.num_bootstrap, config.seed)
    unfinished = sum(not row["finished"] for row in answers)
    if unfinished > MANY_UNFINISHED * len(answers):
        log.warning("%s: %d of %d answers were cut off at max_new_tokens", path, unfinished, len(answers))
    with atomic_write(path / "score.json") as file:
        json.dump({"task": task, "n": len(answers), "unfinished": unfinished,
                   "scores": [dataclasses.asdict(score) for score in scores]}, file, indent=2, ensure_ascii=False)
    return scores


def task_scores(answers: Sequence[dict], task: str, config: DecodeConfig) -> list[Score]:
    """By the task's metrics."""
    return [score for metric in config.tasks[task].metrics
            if not scorers.scorer(metric).needs_typed or "typed" in answers[0]
            for score in scorers.measure(metric, answers, config.tasks[task], config.num_bootstrap, config.seed)]


def mean_scores(mean: str, answers: dict[str, list[dict]], config: DecodeConfig) -> list[Score]:
    """Of `config.means`: the tasks' common metric, averaged over tasks; nothing where no utterance can be judged.

    Raises DataError where utterances differ.
    """
    metric = scorers.mean_metric(config, mean)
    statistics = mean_statistics(mean, answers, config)
    if not len(statistics.table):
        return []
    signature = scorers.scorer(metric).signature(config.tasks[next(iter(answers))])
    return [scored(metric, statistics, f"mean of {', '.join(answers)}|{signature}", config.num_bootstrap,
                   config.seed)]


def can_mean(mean: str, system: str, config: DecodeConfig) -> bool:
    """Not of agreement where the system is what the others agree with."""
    return system != "text" or not scorers.scorer(scorers.mean_metric(config, mean)).needs_typed


def mean_statistics(mean: str, answers: dict[str, list[dict]], config: DecodeConfig) -> Statistics:
    """Of every utterance the mean over tasks (task -> its answers) of what its score counts."""
    ids = {tuple(row["utt_id"] for row in rows) for rows in answers.values()}
    if len(ids) > 1:
        raise DataError(f"means: {', '.join(answers)} were not decoded on the same utterances, so they have no mean")
    common = scorers.scorer(scorers.mean_metric(config, mean))
    if common.needs_typed:  # which leaves out where there is nothing to agree with: then everywhere
        judged = [all(row["typed"].strip() for row in of_one) for of_one in zip(*answers.values(), strict=True)]
        answers = {task: list(compress(rows, judged)) for task, rows in answers.items()}
    return Statistics(np.mean([common.table(rows, config.tasks[task]) for task, rows in answers.items()], axis=0),
                      common.score)


def recogniser_scores(answers: list[dict], config: DecodeConfig) -> list[Score]:
    """WER of what the cascade reads (in the style that it was given); nothing without transcripts to compare with."""
    answers = [row | {"hypothesis": row["recognised"], "reference": row["transcript"]}
               for row in answers if row["transcript"]]
    return scorers.measure("wer", answers, TaskConfig(), config.num_bootstrap, config.seed) if answers else []


def choose_examples(decoded: dict[tuple[str, str, str], list[dict]], config: DecodeConfig, test_sets: Sequence[str],
                    experiment: Experiment) -> list[dict]:
    """`num_examples` spoken examples, drawn by the seed and not by how good they are; tasks and sets take turns."""
    draw = random.Random(config.seed)
    examples = []
    systems = list(config.systems)
    for number in range(config.num_examples):
        set_name = test_sets[-1 - number % len(test_sets)]
        tasks = list(config.tasks_of(set_name))
        task = tasks[number % len(tasks)]
        by_system = {system: {row["utt_id"]: row for row in decoded[task, set_name, system]} for system in systems}
        chosen = draw.choice(sorted(by_system[systems[0]], key=str.encode))
        row = by_system[systems[0]][chosen]
        examples.append({
            "set": set_name, "task": task,
            **{key: row[key] for key in ("utt_id", "transcript", "instruction", "reference")},
            "answers": {_system_name(system, experiment): by_system[system][chosen]["hypothesis"]
                        for system in sorted(systems, key=("text", "chance", "cascade", "speech").index)},
        })
    return examples


def _row(score: Score, system: str, set_name: str, task: str, experiment: Experiment, config: DecodeConfig) -> Row:
    style = "|transcripts:training style" if system == "cascade" and config.transcript_style else ""
    return Row(_system_name(system, experiment), set_name, task, score.metric, score.value, list(score.ci95), score.n,
               experiment.seed, score.signature + style)


def _system_name(system: str, experiment: Experiment) -> str:
    own = system == "speech" or (system == "cascade" and experiment.system.startswith("cascade"))
    return experiment.system if own else system

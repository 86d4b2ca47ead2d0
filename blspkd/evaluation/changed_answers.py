"""How many answers change where a trained model is decoded otherwise: other tags, another number of tokens, beams.

A system `of:` another one (conf/compare) is compared with that one's answers, seed by seed. Whether they are right is
not asked. For Qwen-Audio's tags (arXiv 2311.07919), `of:` the system that is asked with the right tag, it is the share
of answers that a wrong tag flips. A merged model of weight 1 has to come out at exactly 0.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from blspkd.errors import DataError
from blspkd.evaluation.bootstrap import Statistics, ratio
from blspkd.evaluation.comparison_plan import Run
from blspkd.evaluation.decode_dir import decode_dir_path, is_finished, read_finished
from blspkd.evaluation.results import Row, update_results
from blspkd.evaluation.scorers.scorer import scored, shares
from blspkd.evaluation.scorers.texts import fold
from blspkd.evaluation.slices import slices
from blspkd.evaluation_config import DecodeConfig

CHANGED = "changed_answers"  # percent


def changed(answers: Sequence[Mapping], others: Sequence[Mapping]) -> list[bool]:
    """Whether each answer is another one; white space does not count, case and punctuation do.

    Raises DataError where the utterances are not the same.
    """
    if [row["utt_id"] for row in answers] != [row["utt_id"] for row in others]:
        raise DataError("the answers to be compared are to other utterances; remove them and run the comparison again")
    return [fold(own["hypothesis"]) != fold(other["hypothesis"])
            for own, other in zip(answers, others, strict=True)]


def update_changed_results(folder: str | Path, run: Run, config: DecodeConfig, test_sets: Sequence[str]) -> list[Row]:
    """Rows of `run` in its results.json, for every task, and type of question, that it and `run.beside` have answered.

    folder: of all runs. Raises DataError.
    """
    rows = []
    for set_name in test_sets:
        for task, options in config.tasks_of(set_name).items():
            places = [decode_dir_path(Path(folder) / name, task, set_name, "speech") for name in (run.name, run.beside)]
            if not all(map(is_finished, places)):
                continue
            answers, others = map(read_finished, places)
            try:
                is_other = changed(answers, others)
            except DataError as error:
                raise DataError(f"{places[0]}, {places[1]}: {error}") from None
            marked = [row | {CHANGED: flag} for row, flag in zip(answers, is_other, strict=True)]
            for name, part in ({task: marked} | slices(task, marked, options.by_first_word, False)).items():
                score = scored(CHANGED, Statistics(shares([row[CHANGED] for row in part]), ratio),
                               f"other answers than {run.beside}|case:mixed|punct:kept", config.num_bootstrap,
                               config.seed)
                rows.append(Row(run.system, set_name, name, CHANGED, score.value, list(score.ci95), score.n, run.seed,
                                score.signature))
    return update_results(Path(folder) / run.name / "results.json", rows,
                          lambda row: row.metric == CHANGED and row.set in test_sets)

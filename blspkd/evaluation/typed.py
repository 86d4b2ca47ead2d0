"""What the LLM answers to typed transcripts, beside the answers of a system: agreement is measured with it."""

from pathlib import Path

from blspkd.errors import DataError
from blspkd.evaluation import scorers
from blspkd.evaluation.decode_dir import decode_dir_path, read_finished
from blspkd.evaluation_config import DecodeConfig, TaskConfig


def needs_typed(task: TaskConfig) -> bool:
    """Whether a metric of the task measures agreement."""
    return any(scorers.scorer(metric).needs_typed for metric in task.metrics)


def with_typed(answers: list[dict], exp_dir: Path, task: str, set_name: str, system: str, config: DecodeConfig
               ) -> list[dict]:
    """The rows with `typed`, where a metric of the task asks for it and the system is not "text" itself.

    The answers are those of the folder `config.typed`, or of `exp_dir`. Chance, which hears another utterance, has
    the answer to that one's transcript too, as `typed_of_heard`, where both have one instruction. Raises DataError
    where an answer is missing.
    """
    if system == "text" or not needs_typed(config.tasks[task]):
        return answers
    path = decode_dir_path(Path(config.typed or exp_dir), task, set_name, "text")
    try:
        typed = {row["utt_id"]: row["hypothesis"] for row in read_finished(path)}
    except DataError as error:
        raise DataError(f"{error}; tasks.{task} measures agreement with the system text, which has to be decoded "
                        "first") from None
    by_id = {row["utt_id"]: row for row in answers}
    joined = []
    for row in answers:
        heard = row["source_utt_id"] if system == "chance" else row["utt_id"]
        for utt_id in (row["utt_id"], heard):
            if utt_id not in typed:
                raise DataError(f"{path}: no answer for {utt_id}, with which tasks.{task} measures agreement; decode "
                                "the system text on the same utterances (max_utterances)")
        more = {"typed": typed[row["utt_id"]]}
        if system == "chance" and by_id[heard]["instruction"] == row["instruction"]:
            more["typed_of_heard"] = typed[heard]
        joined.append(row | more)
    return joined

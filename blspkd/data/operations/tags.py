"""Tags of the utterances, as words in front of the instruction (Qwen-Audio, arXiv 2311.07919, section 3).

`utt2tags` holds `<utt-id> task=continue language=en style=digits`; `order` says which keys are read, and in which
order they stand in the prompt. The trained model knows all their values; `conf/decode.yaml` gives those of each task.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from blspkd.data.operations.operation import Operation, side_table
from blspkd.data.tags import Tagger
from blspkd.errors import ConfigError, DataError
from blspkd.kaldi.tables import read_table


class TagOperation(Operation):
    """Every example gets the values of the ordered keys; without keys the examples stay as they are."""

    @dataclass(frozen=True)
    class Options(Operation.Options):
        order: list = field(default_factory=list)  # keys of utt2tags, the first stands first
        form: Literal["natural"] = "natural"  # plain words, which the teacher reads too
        table: str = "utt2tags"  # file of the data directory

        def __post_init__(self):
            side_table(self.table)
            if not all(isinstance(key, str) for key in self.order) or len(set(self.order)) < len(self.order):
                raise ConfigError(f"order: {self.order} is no list of different keys, e.g. [task, language]")

    def apply(self, examples, data, random):
        order = self.options.order
        if not order:
            return examples, {}
        path = data.path / self.options.table
        tags = read_tags(path, order)
        retag, done, report = Tagger(self.prompt, data), [], defaultdict(list)
        for example in examples:
            if example.utt_id not in tags:
                raise DataError(f"{path}: no line for utterance {example.utt_id}; add it, or leave the utterance out")
            values = tags[example.utt_id]
            done.append(retag(example, tuple((key, values[key]) for key in order)))
            report[" ".join(f"{key}={values[key]}" for key in order)].append(example.utt_id)
        return done, dict(report)


def read_tags(path: Path, order: Sequence[str]) -> dict[str, dict[str, str]]:
    """{utt-id: {key: value}}, at least of the keys in `order`.

    Raises DataError naming file and line for what is no `key=value`, a key that stands there twice or is missing.
    """
    tags = {}
    for number, (utt_id, line) in enumerate(read_table(path).items(), 1):  # which has neither blank lines nor doubles
        pairs = [field.partition("=") for field in line.split()]
        where = f"{path}:{number}: {utt_id}"
        wrong = next(("".join(pair) for pair in pairs if not all(pair)), None)
        if wrong is not None:
            raise DataError(f"{where}: '{wrong}' is not of the form key=value (a value without blanks)")
        values = {key: value for key, _, value in pairs}
        if len(values) < len(pairs):
            raise DataError(f"{where}: a key stands there twice: {line}")
        missing = [key for key in order if key not in values]
        if missing:
            raise DataError(f"{where}: has no '{missing[0]}'; every utterance needs {', '.join(order)}")
        tags[utt_id] = values
    return tags

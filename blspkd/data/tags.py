"""Tags: words in front of the instruction, which the teacher reads too (Qwen-Audio, arXiv 2311.07919, section 3).

Qwen-Audio conditions its decoder on an ordered prefix (task, language, ...), a special token for each value, so that
data sets with labels of different style can be mixed. Here a tag is the plain word that it is in `utt2tags`: no token
is added, and the LLM stays as it is.

Imports no torch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from blspkd.config_file import nearest
from blspkd.data.example_columns import LazyExamples
from blspkd.errors import ConfigError, DataError
from blspkd.kaldi.data_dir import KaldiDir

if TYPE_CHECKING:  # both import torch, and configurations are checked without
    from blspkd.data.examples import Example
    from blspkd.data.prompts import Prompt

Tags = tuple[tuple[str, str], ...]  # (key, value), in the order of the prompt


def tagged(instruction: str, values: Iterable[str]) -> str:
    """`instruction` with the values of tags in front; without any it is as it was, to the last blank."""
    return " ".join(filter(None, [*values, instruction]))


def known_tags(examples: "Iterable[Example]") -> dict[str, list[str]]:
    """{key: its values}, of all examples, the keys in the order of the prompt."""
    if isinstance(examples, LazyExamples):  # which have none
        return {}
    values: dict[str, set[str]] = {}
    for tags in sorted({example.tags for example in examples}, key=len, reverse=True):  # some may lack a key
        for key, value in tags:
            values.setdefault(key, set()).add(value)
    return {key: sorted(found) for key, found in values.items()}


def check_tags(tags: Mapping[str, str], known: Mapping[str, list[str]], where: str) -> None:
    """Raise ConfigError, which names `where` and what is known, for a tag that no example of the training had.

    known: {key: values} of the training.
    """
    for key, value in tags.items():
        if not known:
            raise ConfigError(f"{where}: tags: {key}: the training of this model had no tags; leave them out")
        if key not in known:
            raise ConfigError(f"{where}: tags: the training had no '{key}'; {nearest(key, known)}")
        if value not in known[key]:
            raise ConfigError(f"{where}: tags: {key}: '{value}' is none of the training's: {', '.join(known[key])}")


class Tagger:
    """Puts tags in front of the instructions of examples."""

    def __init__(self, prompt: "Prompt", data: KaldiDir):
        self.prompt, self.data = prompt, data
        self._shared: dict[tuple, np.ndarray] = {}  # prefixes and suffixes are mostly the same: keep one of each

    def __call__(self, example: "Example", tags: Tags) -> "Example":
        """The example with `tags` in front of those that it has. Raises DataError for a key that it has already."""
        twice = dict(tags).keys() & dict(example.tags).keys()
        if twice:
            raise DataError(f"{self.data.path}: utterance {example.utt_id} would get a second tag '{min(twice)}'; two "
                            "data operations use this key, rename one")
        tags = tags + example.tags
        instruction = tagged(self.prompt.instruction_of(example.utt_id), (value for _, value in tags))
        ids = self.prompt.split(self.data[example.utt_id].text, instruction)
        return replace(example, tags=tags, prefix=self._once(ids.prefix), suffix=self._once(ids.suffix),
                       input=np.asarray(ids.input, dtype=np.int32))

    def _once(self, ids: list[int]) -> np.ndarray:
        return self._shared.setdefault(tuple(ids), np.asarray(ids, dtype=np.int32))

"""A random part of the utterances: the same wherever it is asked for, on any machine and in any job."""

import random
from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")


def sample(table: Mapping[str, Value], number: int, seed: int) -> dict[str, Value]:
    """`number` entries by id, drawn by the seed, in the ids' order; all of them where that is 0 or too many."""
    if not 0 < number < len(table):
        return dict(table)
    chosen = random.Random(seed).sample(sorted(table, key=str.encode), number)
    return {utt_id: table[utt_id] for utt_id in sorted(chosen, key=str.encode)}


def written_for(utterances: Mapping[str, Value], generation: Mapping[str, object]) -> dict[str, Value]:
    """The utterances that stage 2 writes continuations for, by its options (`generation` of continuation.info.json)."""
    return sample(utterances, generation.get("max_utterances", 0), generation.get("seed", 0))

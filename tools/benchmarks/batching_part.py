"""Batches: how many LLM positions are padding, ours against two plain ways on the same utterances.

*authors*: prefix, input, suffix and response padded one by one, random batches; *plain*: put together first, then
padded, random batches. `speedup` is their number of positions over ours, which is what the LLM pays for; times are
those of making an epoch's batches.
"""

from collections.abc import Callable

import numpy as np
from measure import Row, take_turns
from utterances import librispeech_like, mini_like

from blspkd.config import DataConfig
from blspkd.data.batching import BatchPlan


def run(device: str, quick: bool = False) -> list[Row]:
    """Rows of part "batching"; the device does not matter."""
    number = 1000 if quick else 28_000  # a tenth of LibriSpeech
    cases = [(corpus, batch, ranks) for corpus in (librispeech_like, mini_like) for batch, ranks in ((16, 1), (32, 8))]
    return [row for case in cases for row in _compare(*case, number)]


def _compare(corpus: Callable, batch_utterances: int, num_ranks: int, number: int) -> list[Row]:
    examples = corpus(number)
    sizes = {segment: np.array([len(getattr(example, segment)) for example in examples])
             for segment in ("prefix", "input", "suffix", "response")}
    seconds = np.array([example.duration for example in examples])
    useful = sum(size.sum() for size in sizes.values())
    config = DataConfig(batch_utterances=batch_utterances)

    def ours() -> list[list[int]]:
        return BatchPlan(examples, config, 0, 1, 0, num_ranks).epoch(0)

    def at_random() -> list[np.ndarray]:
        return np.split(np.random.default_rng(0).permutation(number), range(batch_utterances, number, batch_utterances))

    turns = take_turns({"ours": ours, "random": at_random}, "cpu", turns=3)
    batches, mixed = ours(), at_random()
    our_positions = _padded(sum(sizes.values()), batches)
    rows = []
    for peer, positions in (("authors", sum(_padded(size, mixed) for size in sizes.values())),
                            ("plain", _padded(sum(sizes.values()), mixed))):
        note = (f"positions over useful ones: ours {our_positions / useful:.3f}, theirs {positions / useful:.3f}; "
                f"audio over useful audio: ours {_padded(seconds, batches) / seconds.sum():.2f}, theirs "
                f"{_padded(seconds, mixed) / seconds.sum():.2f}")
        name = f"{corpus.__name__.replace('_', '-')}, {batch_utterances} utterances, {num_ranks} ranks"
        rows.append(Row("batching", name, peer, turns.median("ours"), turns.median("random"),
                        positions / our_positions, note=note))
    return rows


def _padded(sizes: np.ndarray, batches: list) -> float:
    """Everything that is computed when each batch is padded to its largest."""
    return float(sum(len(batch) * sizes[np.asarray(batch)].max() for batch in batches))

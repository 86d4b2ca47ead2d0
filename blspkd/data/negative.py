"""Another utterance's text, for terms of the loss that tell a pair of speech and text from a wrong one.

It is drawn where examples are loaded, from the whole set and by (seed, epoch, index). Drawn from its batch, it would
depend on how a batch is split: micro-batches and ranks would no longer add up.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from blspkd.data.examples import Example

TRIES = 10
STREAM = 1  # beside (seed, epoch, index): augmentation draws the same numbers with negatives and without


def draw_negative(examples: "Sequence[Example]", seed: int, epoch: int, index: int) -> np.ndarray | None:
    """The transcript's tokens of an utterance that does not say what `examples[index]` says.

    None where TRIES utterances all said the same.
    """
    random, own = np.random.default_rng((seed, epoch, index, STREAM)), examples[index].input
    for other in random.integers(len(examples), size=TRIES):
        if not np.array_equal(examples[other].input, own):
            return examples[other].input
    return None

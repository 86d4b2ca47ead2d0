"""Where a row of examples is cut into batches: arithmetic on arrays of their sizes, without a loop over examples.

The rules are those of `BatchPlan` (batching.py), which decides the order of the row.
"""

import heapq

import numpy as np

from blspkd.config import DataConfig


def ends(lengths: np.ndarray, durations: np.ndarray, config: DataConfig) -> list[int]:
    """Ends of consecutive stretches, each the longest from the end of the one before that keeps the budgets.

    lengths: [n] LLM positions; durations: [n] seconds; n > 0. A stretch of m examples keeps the budgets where
    m <= batch_utterances, m * max(lengths) <= batch_tokens and m * max(durations) <= batch_seconds; one example always
    makes a stretch.
    """
    # The longest stretch from every place at once: what keeps the budgets does so when it is cut shorter, so that its
    # size can be built up from powers of two, the largest first. widest[k][i] is the maximum of 2^k items from i on;
    # behind the last example stands what no stretch can hold.
    n, powers = len(lengths), max(1, min(len(lengths), config.batch_utterances).bit_length())
    beyond = 1 << powers - 1
    widest = [(np.concatenate([lengths, np.full(beyond, config.batch_tokens + 1)]),
               np.concatenate([durations, np.zeros(beyond)]))]
    for power in range(powers - 1):
        step = 1 << power
        widest.append(tuple(np.maximum(row[:-step], row[step:]) for row in widest[-1]))
    places, size, longest, longest_audio = np.arange(n), np.ones(n, dtype=np.int64), lengths, durations
    for power in reversed(range(powers)):
        tokens, seconds = widest[power]
        behind, larger = places + size, size + (1 << power)
        top, top_audio = np.maximum(longest, tokens[behind]), np.maximum(longest_audio, seconds[behind])
        fits = larger * top <= config.batch_tokens
        fits &= larger * top_audio <= config.batch_seconds
        fits &= larger <= config.batch_utterances
        size = np.where(fits, larger, size)
        longest, longest_audio = np.where(fits, top, longest), np.where(fits, top_audio, longest_audio)
    after, found, place = (places + size).tolist(), [], 0
    while place < n:
        place = after[place]
        found.append(place)
    return found


def halve_largest(batches: list[np.ndarray], divisor: int) -> list[np.ndarray]:
    """Cut the largest batch in two, the first of several, until their number is a multiple of `divisor`.

    The halves stand where the whole stood. Batches of one example stay, whatever their number.
    """
    missing = -len(batches) % divisor
    if not missing:
        return batches
    # A piece's place among the others: the number of its batch, then 0 or 1 for each time that it was cut.
    heap = [(-len(batch), (place,), batch) for place, batch in enumerate(batches)]
    heapq.heapify(heap)
    for _ in range(missing):
        negative, place, batch = heap[0]
        if negative >= -1:
            break
        half = len(batch) // 2
        heapq.heapreplace(heap, (-half, (*place, 0), batch[:half]))
        heapq.heappush(heap, (half - len(batch), (*place, 1), batch[half:]))
    return [batch for _, _, batch in sorted(heap, key=lambda item: item[1])]

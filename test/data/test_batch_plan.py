"""The plan of an epoch is the one of the loop over examples that it was written as, to the last batch."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blspkd.config import DataConfig
from blspkd.data.batching import POOL_BATCHES, BatchPlan
from blspkd.data.stretches import ends, halve_largest


class SlowPlan:
    """The rules of `BatchPlan`, example by example."""

    def __init__(self, lengths, durations, rates, config, seed, batches_per_step):
        self.lengths, self.durations, self.rates = np.array(lengths), np.array(durations), np.array(rates)
        self.config, self.seed, self.batches_per_step = config, seed, batches_per_step

    def epoch(self, epoch):
        generator = np.random.default_rng((self.seed, epoch))
        order = self._heard(generator.permutation(len(self.lengths)), generator)
        pool = POOL_BATCHES * self.config.batch_utterances
        batches = []
        for first in range(0, len(order), pool):
            batches += self._cut(self._sort(order[first:first + pool]))
        batches = slow_halves(batches, self.batches_per_step)
        size = self.batches_per_step
        steps = [batches[first:first + size] for first in range(0, len(batches), size)]
        return [batch for step in generator.permutation(len(steps)) for batch in steps[step]]

    def _heard(self, order, generator):
        heard = np.ones(len(order), dtype=bool)
        for rate in np.unique(self.rates[self.rates < 1]):
            places = np.flatnonzero(self.rates[order] == rate)
            heard[places[int(rate * len(places) + generator.random()):]] = False
        return order[heard]

    def _sort(self, indices):
        indices = indices[np.argsort(self.lengths[indices], kind="stable")]
        batches = len(self._cut(indices))
        parts = np.array_split(indices, min(batches, round(3 * math.sqrt(batches))))
        parts = [part[np.argsort(self.durations[part], kind="stable")] for part in parts]
        return np.concatenate([part[::-1] if i % 2 else part for i, part in enumerate(parts)])

    def _cut(self, indices):
        batches, first, longest, longest_audio = [], 0, 0, 0.0
        for i, index in enumerate(indices):
            size = i - first + 1
            longest, longest_audio = max(longest, self.lengths[index]), max(longest_audio, self.durations[index])
            if i > first and (size > self.config.batch_utterances or size * longest > self.config.batch_tokens
                              or size * longest_audio > self.config.batch_seconds):
                batches.append(indices[first:i])
                first, longest, longest_audio = i, self.lengths[index], self.durations[index]
        batches.append(indices[first:])
        return batches


def slow_halves(batches, size):
    batches = list(batches)
    while len(batches) % size and max(map(len, batches)) > 1:
        largest = max(range(len(batches)), key=lambda i: len(batches[i]))
        half = len(batches[largest]) // 2
        batches[largest:largest + 1] = [batches[largest][:half], batches[largest][half:]]
    return batches


def listed(batches):
    return [batch.tolist() for batch in batches]


budgets = st.builds(DataConfig, batch_utterances=st.integers(1, 70), batch_tokens=st.integers(1, 6000),
                    batch_seconds=st.floats(0.5, 600))


@settings(max_examples=150)
@given(st.integers(1, 900), budgets, st.integers(1, 23), st.booleans(), st.integers(0, 9), st.integers(0, 3))
def test_an_epoch_is_that_of_the_loop(count, config, batches_per_step, drawn, seed, epoch):
    generator = np.random.default_rng(seed)
    lengths, durations = generator.integers(1, 300, count), generator.gamma(3, 2, count).round(2) + 0.01
    rates = generator.choice([1.0, 0.3, 0.75], count) if drawn else np.ones(count)
    items = [SimpleNamespace(length=int(n), duration=float(seconds), rate=float(rate))
             for n, seconds, rate in zip(lengths, durations, rates, strict=True)]
    plan = BatchPlan(items, config, seed, 1, 0, 1, batches_per_step)
    assert listed(plan.epoch(epoch)) == listed(SlowPlan(lengths, durations, rates, config, seed,
                                                        batches_per_step).epoch(epoch))


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0.01, 30)), min_size=1, max_size=120), budgets)
def test_a_row_is_cut_where_the_loop_cuts_it(sizes, config):
    lengths, durations = (np.array(values) for values in zip(*sizes, strict=True))
    slow = SlowPlan(lengths, durations, [1.0], config, 0, 1)._cut(np.arange(len(sizes)))
    assert ends(lengths, durations, config) == np.cumsum([len(batch) for batch in slow]).tolist()


@settings(max_examples=300)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 90))
def test_largest_batches_are_halved_as_the_loop_does(sizes, divisor):
    batches = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    assert listed(halve_largest(batches, divisor)) == listed(slow_halves(batches, divisor))


@pytest.mark.parametrize("one", [1, 7])
def test_a_batch_may_break_the_budgets_only_alone(one):
    config = DataConfig(batch_utterances=8, batch_tokens=10, batch_seconds=10)
    assert ends(np.full(one, 11), np.full(one, 1.0), config) == list(range(1, one + 1))
    assert ends(np.full(one, 1), np.full(one, 11.0), config) == list(range(1, one + 1))

"""How much of a batch is padding, on lengths as real corpora have them; and the plan over ranks and in the middle."""

import importlib
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from blspkd.config import DataConfig
from blspkd.data.batching import BatchPlan

BENCHMARKS = Path(__file__).resolve().parents[2] / "tools/benchmarks"


@pytest.fixture(scope="module", params=["librispeech_like", "mini_like"])
def utterances(request):
    sys.path.insert(0, str(BENCHMARKS))
    yield getattr(importlib.import_module("utterances"), request.param)
    sys.path.remove(str(BENCHMARKS))


def padding(batches, sizes):
    """All positions over useful ones."""
    return sum(len(batch) * max(sizes[i] for i in batch) for batch in batches) / sum(sizes)


@pytest.mark.parametrize(("batch_utterances", "num_ranks", "accumulation"), [(8, 1, 1), (16, 2, 1), (32, 8, 4)])
def test_hardly_any_llm_position_and_little_audio_is_padding(utterances, batch_utterances, num_ranks, accumulation):
    items = utterances(6000)
    batches = BatchPlan(items, DataConfig(batch_utterances=batch_utterances), 0, 1, 0, num_ranks, accumulation).epoch(0)
    assert padding(batches, [item.length for item in items]) <= 1.05
    assert padding(batches, [item.duration for item in items]) <= 1.2


@pytest.mark.parametrize("budget", [{"batch_tokens": 2000}, {"batch_seconds": 150.0}])
def test_budgets_that_cut_before_the_number_of_utterances_do_not_cost_padding(utterances, budget):
    items = utterances(3000)
    batches = BatchPlan(items, DataConfig(batch_utterances=10_000, **budget), 0, 1).epoch(0)
    assert padding(batches, [item.length for item in items]) <= 1.05


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_a_run_goes_on_in_the_middle_of_an_epoch(utterances, num_ranks):
    items, config = utterances(300), DataConfig(batch_utterances=8)
    for rank in range(num_ranks):
        np.random.seed(0)
        whole = list(BatchPlan(items, config, 5, 60, rank, num_ranks, 2))
        np.random.seed(1)  # nobody else's random numbers matter
        assert list(islice(BatchPlan(items, config, 5, 60, rank, num_ranks, 2), 17, None)) == whole[17:]


@pytest.mark.parametrize("num_ranks", [2, 5])
def test_ranks_together_see_every_example_once_an_epoch_in_equally_many_batches(utterances, num_ranks):
    items, config = utterances(300), DataConfig(batch_utterances=8)
    per_rank = len(BatchPlan(items, config, 5, 1, 0, num_ranks).epoch(0)) // num_ranks
    plans = [list(BatchPlan(items, config, 5, per_rank, rank, num_ranks)) for rank in range(num_ranks)]
    seen = [index for plan in plans for batch in plan for epoch, index in batch if epoch == 0]
    assert sorted(seen) == list(range(300))


def test_epochs_mix_other_utterances_into_a_batch(utterances):
    items = utterances(2000)
    plan = BatchPlan(items, DataConfig(batch_utterances=8), 0, 1)
    mates = [{frozenset((a, b)) for batch in plan.epoch(epoch) for a in batch for b in batch if a < b}
             for epoch in (0, 1)]
    assert len(mates[0] & mates[1]) < 0.15 * len(mates[0])

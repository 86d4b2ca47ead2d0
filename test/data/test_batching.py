"""Batches: nothing lost, nothing mixed up, little padding, reproducible."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blspkd.audio.samples import AudioSource
from blspkd.config import DataConfig
from blspkd.data.batching import BatchPlan, collate, lay_out
from blspkd.data.examples import Example, LoadedExample
from blspkd.data.features import Features


def example(number, n_input, n_response=4, duration=2.0, n_prefix=3, n_suffix=2):
    start = 1000 * (number + 1)
    parts = np.split(np.arange(start, start + n_prefix + n_input + n_suffix + n_response, dtype=np.int32),
                     np.cumsum([n_prefix, n_input, n_suffix]))
    return Example(f"utt{number}", AudioSource("x.wav"), duration, *parts)


def examples(count, seed=0):
    generator = np.random.default_rng(seed)
    return [example(i, int(generator.integers(5, 60)), int(generator.integers(3, 40)),
                    float(generator.uniform(1, 20))) for i in range(count)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(60, 4000), st.integers(0, 5))
def test_an_epoch_holds_every_example_once_and_keeps_the_budgets(count, batch_utterances, batch_tokens, seed):
    config = DataConfig(batch_utterances=batch_utterances, batch_tokens=batch_tokens, batch_seconds=100.0)
    items = examples(count, seed)
    batches = BatchPlan(items, config, seed, 1).epoch(0)
    assert sorted(index for batch in batches for index in batch) == list(range(count))
    for batch in batches:
        lengths, durations = ([getattr(items[i], name) for i in batch] for name in ("length", "duration"))
        assert len(batch) <= batch_utterances
        assert len(batch) == 1 or len(batch) * max(lengths) <= batch_tokens
        assert len(batch) == 1 or len(batch) * max(durations) <= 100.0


def test_hardly_any_position_is_padding():
    items = examples(4000)
    batches = BatchPlan(items, DataConfig(), 0, 1).epoch(0)
    padded = sum(len(batch) * max(items[i].length for i in batch) for batch in batches)
    assert padded / sum(item.length for item in items) <= 1.05


def test_the_plan_is_reproducible_shuffled_by_epoch_and_can_be_skipped_into():
    items, config = examples(200), DataConfig(batch_utterances=8)
    plan = list(BatchPlan(items, config, 1, 60))
    assert plan == list(BatchPlan(items, config, 1, 60)) and len(plan) == 60
    assert plan != list(BatchPlan(items, config, 2, 60))
    assert plan[:40] == list(BatchPlan(items, config, 1, 40))
    epochs = [[key for batch in plan for key in batch if key[0] == epoch] for epoch in (0, 1)]
    assert len(epochs[0]) == 200 and epochs[0] != [(0, index) for _, index in epochs[1]]


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_the_batches_of_a_step_are_of_like_length(num_ranks):
    items, config = examples(2000), DataConfig(batch_utterances=8)
    plans = [list(BatchPlan(items, config, 1, 80, rank, num_ranks)) for rank in range(num_ranks)]
    sizes = np.array([[max(items[i].length for _, i in batch) for batch in plan] for plan in plans])
    assert (sizes.max(0) - sizes.min(0)).mean() < sizes.std() / 3


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_share_the_stream_of_one_rank_that_accumulates(num_ranks):
    items, config = examples(200), DataConfig(batch_utterances=8)
    whole = list(BatchPlan(items, config, 1, 12 * num_ranks, accumulation=num_ranks))
    parts = [list(BatchPlan(items, config, 1, 12, rank, num_ranks)) for rank in range(num_ranks)]
    assert [parts[i % num_ranks][i // num_ranks] for i in range(len(whole))] == whole


def test_layout_concatenates_first_and_pads_at_the_end():
    items = [example(0, 3, 2), example(1, 5, 4)]
    sequences = lay_out(items, [3, 5])
    assert sequences.lengths.tolist() == [10, 14]
    assert sequences.ids[0].tolist() == list(range(1000, 1010)) + [0] * 4
    assert sequences.ids[sequences.input_mask].tolist() == [*items[0].input, *items[1].input]
    assert sequences.ids[sequences.response_mask].tolist() == [*items[0].response, *items[1].response]


@pytest.mark.parametrize("shifted", [False, True])
def test_compared_positions_are_the_inputs_then_the_responses_or_those_that_predict_them(shifted):
    sequences = lay_out([example(0, 4, 3), example(1, 2, 4)], [4, 2])  # of 12 and 11 positions
    inputs = [3, 4, 5, 6, 12 + 3, 12 + 4]
    responses = [position - shifted for position in (9, 10, 11, 12 + 7, 12 + 8, 12 + 9, 12 + 10)]
    assert sequences.positions(shifted, with_input=False).tolist() == responses
    assert sequences.positions(shifted, with_input=True).tolist() == inputs + responses
    assert sequences.response_positions(shifted).flatten().nonzero().flatten().tolist() == responses


def test_layout_with_another_number_of_inputs():
    sequences = lay_out([example(0, 3, 2)], [6])
    assert sequences.lengths.tolist() == [13] and sequences.input_mask.sum() == 6
    assert sequences.ids[0, :3].tolist() == [1000, 1001, 1002] and sequences.ids[0, -2:].tolist() == [1008, 1009]


def test_collate_pads_features_and_reports_errors():
    good = [LoadedExample(example(i, 3), Features([torch.ones(5 + i, 4)], [5 + i])) for i in range(2)]
    batch = collate([good[0], LoadedExample(example(9, 3), None, "utterance utt9: unreadable"), good[1]])
    assert batch.utt_ids == ["utt0", "utt1"] and batch.errors == ["utterance utt9: unreadable"]
    assert batch.features.shape == (2, 6, 4) and batch.feature_lengths.tolist() == [5, 6]
    assert batch.windows == [1, 1] and batch.n_tokens.tolist() == [3, 3]

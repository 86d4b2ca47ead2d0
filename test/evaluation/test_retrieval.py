"""R@1 between speech and text, against every cosine computed alone."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from blspkd.evaluation import retrieval
from blspkd.evaluation.alignment_summary import MEASURES, interval, value_of
from blspkd.evaluation.retrieval import POOLED, first_is_right, means, pack, retrieve


def slow_cosine(left, right):
    left, right = [float(value) for value in left], [float(value) for value in right]
    product = math.fsum(a * b for a, b in zip(left, right, strict=True))
    return product / math.sqrt(math.fsum(a * a for a in left) * math.fsum(b * b for b in right))


def slow_first_is_right(queries, items, asked, offered):
    found = []
    for query, what in zip(queries, asked, strict=True):
        scores = [slow_cosine(query, item) for item in items]
        found.append(offered[scores.index(max(scores))] == what)
    return found


def row_of(number, speech, text, tokens):
    return {"utt_id": f"u{number}", **pack(np.array(speech), np.array(text), tokens)}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.integers(2, 5), st.integers(1, 4))
def test_it_equals_all_cosines(seed, num_queries, num_items, width, block):
    draw = np.random.default_rng(seed)
    queries, items = draw.standard_normal((num_queries, width)), draw.standard_normal((num_items, width))
    asked, offered = draw.integers(3, size=num_queries).tolist(), draw.integers(3, size=num_items).tolist()
    whole = first_is_right(queries, items, asked, offered)
    assert whole.tolist() == slow_first_is_right(queries, items, asked, offered)
    scaled = queries * draw.uniform(0.1, 10, (num_queries, 1)), items * draw.uniform(0.1, 10, (num_items, 1))
    with pytest.MonkeyPatch.context() as patch:  # a cosine knows no lengths, and blocks change nothing
        patch.setattr(retrieval, "BLOCK", block)
        assert first_is_right(*scaled, asked, offered).tolist() == whole.tolist()


@given(arrays(np.float32, (7, 3), elements=st.floats(-4, 4, width=16, allow_subnormal=False)),
       st.permutations(range(7)))
@settings(deadline=None, max_examples=25)
def test_means_are_those_of_the_groups(vectors, order):
    sizes = [2, 0, 1, 4]
    found = means(torch.from_numpy(vectors), sizes)
    expected = [vectors[:2].astype(np.float64).mean(0), np.zeros(3), vectors[2], vectors[3:].astype(np.float64).mean(0)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(means(torch.from_numpy(vectors[order]), [7])[0], vectors.mean(0), atol=1e-5)


def test_speech_that_is_the_text_finds_it_and_shuffled_speech_does_not():
    vectors = np.random.default_rng(0).standard_normal((50, 8))
    own = retrieve([row_of(i, vectors[i], vectors[i], [i]) for i in range(50)])
    assert all(row["retrieves_text"] and row["is_retrieved"] for row in own)
    other = retrieve([row_of(i, vectors[(i + 1) % 50], vectors[i], [i]) for i in range(50)])
    assert not any(row["retrieves_text"] or row["is_retrieved"] for row in other)
    assert all(POOLED not in row for row in own) and [row["utt_id"] for row in own] == [f"u{i}" for i in range(50)]


def test_the_two_directions_differ():
    """Both texts are nearest to the first utterance's speech; each speech is nearest to its own text."""
    east, north = [1.0, 0.0], [0.0, 1.0]
    rows = retrieve([row_of(0, [1.0, 0.9], east, [0]), row_of(1, [-1.0, 0.5], north, [1])])
    assert [row["retrieves_text"] for row in rows] == [True, True]
    assert [row["is_retrieved"] for row in rows] == [True, False]


def test_equal_transcripts_are_right_for_each_other():
    """Two say the same: either text, and either speech, is right. Else one of the two would always be wrong."""
    rows = [row_of(0, [1.0, 0.1], [1.0, 0.0], [3, 5]), row_of(1, [1.0, 0.0], [1.0, 0.0], [3, 5]),
            row_of(2, [0.0, 1.0], [0.0, 1.0], [4])]
    assert all(row["retrieves_text"] and row["is_retrieved"] for row in retrieve(rows))
    apart = [row_of(0, [1.0, 0.1], [1.0, 0.0], [3, 5]), row_of(1, [1.0, 0.0], [1.0, 1e-9], [3, 6]), rows[2]]
    assert [row["is_retrieved"] for row in retrieve(apart)] == [False, True, True]  # other texts: the nearer one wins


def test_tokens_in_another_order_are_one_text():
    rows = [row_of(0, [1.0, 0.1], [1.0, 0.0], [5, 3]), row_of(1, [1.0, 0.0], [1.0, 1e-8], [3, 5]),
            row_of(2, [0.0, 1.0], [0.0, 1.0], [4])]
    assert all(row["retrieves_text"] and row["is_retrieved"] for row in retrieve(rows))
    assert retrieve([rows[0], rows[2]])[0]["retrieves_text"]


def test_speech_without_direction_is_never_right():
    rows = [row_of(0, [0.0, 0.0], [1.0, 0.0], [0]), row_of(1, [0.0, 1.0], [0.0, 1.0], [1])]
    assert [(row["retrieves_text"], row["is_retrieved"]) for row in retrieve(rows)] == [(False, False), (True, True)]
    assert first_is_right(np.ones((1, 2)), np.zeros((1, 2)), ["a"], ["a"]).tolist() == [False]


def test_one_text_cannot_be_missed_so_nothing_is_measured():
    rows = retrieve([row_of(number, [1.0], [1.0], [2, 2]) for number in range(3)])
    assert rows == [{"utt_id": f"u{number}"} for number in range(3)]
    assert value_of(MEASURES["r1_speech_to_text"], rows) is None and retrieve([]) == []


def test_rows_survive_json_bit_for_bit():
    vectors = np.random.default_rng(1).standard_normal((20, 5)).astype(np.float32)
    rows = [row_of(i, vectors[i], vectors[-i], [i]) for i in range(20)]
    assert retrieve(json.loads(json.dumps(rows))) == retrieve(rows)


def test_the_measure_has_its_number_of_utterances_and_an_interval():
    rows = [{"retrieves_text": number % 4 > 0, "is_retrieved": number % 2 > 0} for number in range(40)]
    assert value_of(MEASURES["r1_speech_to_text"], rows) == (75.0, 40)
    assert value_of(MEASURES["r1_text_to_speech"], rows) == (50.0, 40)
    low, high = interval(MEASURES["r1_speech_to_text"], rows, 200, 0)
    assert 50 < low < 75 < high < 95

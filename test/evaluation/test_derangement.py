"""Chance hears another utterance that says something else."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blspkd.errors import DataError
from blspkd.evaluation.derangement import derange


@given(st.lists(st.sampled_from("abcdefg"), min_size=2, max_size=40), st.integers(0, 5))
def test_nobody_hears_their_own_words(words, seed):
    transcripts = {f"utt{number}": word for number, word in enumerate(words)}
    if len(set(words)) < 2:
        with pytest.raises(DataError, match="two different transcripts"):
            derange(transcripts, seed)
        return
    sources = derange(transcripts, seed)
    assert sources.keys() == transcripts.keys()
    assert all(transcripts[utt_id] != transcripts[source] for utt_id, source in sources.items())
    if max(Counter(words).values()) <= len(words) / 2:
        assert sorted(sources.values()) == sorted(transcripts)


def test_case_and_punctuation_do_not_make_transcripts_different():
    with pytest.raises(DataError, match="leave it out"):
        derange({"a": "Hello, you", "b": "hello you."}, 0)


def test_the_pairing_is_fixed_by_the_seed_and_not_by_the_order_of_the_utterances():
    transcripts = {f"utt{number}": f"words {number}" for number in range(30)}
    backwards = dict(reversed(transcripts.items()))
    assert derange(transcripts, 1) == derange(backwards, 1)
    assert derange(transcripts, 1) != derange(transcripts, 2)

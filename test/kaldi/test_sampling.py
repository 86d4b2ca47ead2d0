"""A sample of utterances does not depend on anything but ids, number and seed."""

import random

import hypothesis.strategies as st
from hypothesis import given

from blspkd.kaldi.sampling import sample, written_for


@given(st.sets(st.text("abcé0", min_size=1, max_size=5), max_size=20), st.integers(0, 25), st.integers(0, 3))
def test_a_sample_is_sorted_of_the_asked_size_and_the_same_in_any_order(ids, number, seed):
    table = {utt_id: utt_id.upper() for utt_id in ids}
    shuffled = dict(random.Random(1).sample(list(table.items()), len(table)))
    found = sample(table, number, seed)
    assert len(found) == (number if 0 < number < len(table) else len(table)) and found.items() <= table.items()
    assert sample(shuffled, number, seed) == found
    if len(found) < len(table):
        assert list(found) == sorted(found, key=str.encode)
    assert written_for(table, {"max_utterances": number, "seed": seed}) == found and written_for(table, {}) == table

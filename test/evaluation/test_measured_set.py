"""What alignment and text drift read of a data directory."""

import pytest

from blspkd.errors import DataError
from blspkd.evaluation.measured_set import FILES, MeasuredSet
from blspkd.evaluation_config import DecodeConfig


def test_all_that_a_directory_has_is_read(make_rich_dir):
    path = make_rich_dir()
    found = MeasuredSet.read(path, DecodeConfig())
    assert found.data.path == path and list(found.data.utterances) == sorted(found.data.utterances)
    assert set(found.words) == set(found.data.utterances) == {*found.continuations, "ann-1"}
    assert tuple(found.files) == FILES


def test_continuations_and_times_of_words_may_be_missing(make_dir):
    found = MeasuredSet.read(make_dir(), DecodeConfig())
    assert found.continuations == found.words == {} and len(found.data) == 6
    assert set(found.files) == {"wav.scp", "utt2spk", "text"}


def test_a_sample_is_drawn_by_the_seed(make_dir):
    path = make_dir()
    draws = {seed: tuple(MeasuredSet.read(path, DecodeConfig(max_utterances=3, seed=seed)).data.utterances)
             for seed in range(5)}
    assert {len(drawn) for drawn in draws.values()} == {3} and len(set(draws.values())) > 1
    assert draws[1] == tuple(MeasuredSet.read(path, DecodeConfig(max_utterances=3, seed=1)).data.utterances)


@pytest.mark.parametrize("name", ["text", "continuation", "word_times", "utt2dur"])
def test_another_file_has_another_digest(make_rich_dir, name):
    path = make_rich_dir()
    before = MeasuredSet.read(path, DecodeConfig()).files
    with open(path / name, "rb+") as file:
        contents = file.read()
        file.seek(0)
        file.write(contents.replace(b"word", b"ward").replace(b"some", b"same").replace(b"so", b"ro").replace(
            b"0.1000", b"0.2000"))
    after = MeasuredSet.read(path, DecodeConfig()).files
    assert {key for key in FILES if before[key] != after[key]} == {name}


def test_a_directory_without_transcripts_is_refused(make_dir):
    with pytest.raises(DataError, match="text"):
        MeasuredSet.read(make_dir(text=None), DecodeConfig())

"""Recordings of a data directory: their lengths and samples, and what an error names."""

import numpy as np
import pytest
import soundfile

from blspkd.errors import AudioError
from blspkd.evaluation.recordings import Recordings
from blspkd.kaldi.data_dir import KaldiDir


def read(path):
    return Recordings(path, KaldiDir.read(path).utterances)


def test_a_length_is_that_of_utt2dur_or_else_of_the_file(make_dir):
    told, measured = make_dir("told", utt2dur=["ann-1 7.5"]), make_dir("measured")
    assert read(told).seconds("ann-1") == 7.5
    assert read(told).seconds("ann-2") == read(measured).seconds("ann-2") == 0.2
    assert read(measured).seconds("ann-1") == 0.1


def test_samples_are_those_of_the_segment_at_the_rate_that_is_asked_for(make_rich_dir):
    path = make_rich_dir()
    soundfile.write(path.parent / "audio" / "rec1.wav", np.repeat([0.1, 0.2, 0.3], 1600), 16000)
    np.testing.assert_allclose(read(path).load("ann-2", 16000), 0.2, atol=1e-4)
    assert len(read(path).load("ann-2", 8000)) == 800


@pytest.mark.parametrize("use", [lambda recordings: recordings.seconds("bob-1"),
                                 lambda recordings: recordings.load("bob-1", 16000)])
def test_an_error_names_directory_and_utterance(make_dir, use):
    path = make_dir()
    (path.parent / "audio" / "bob-1.wav").write_bytes(b"no audio")
    with pytest.raises(AudioError, match=f"^{path}: utterance bob-1: .*bob-1.wav"):
        use(read(path))

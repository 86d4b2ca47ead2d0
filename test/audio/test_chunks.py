"""Long recordings in pieces."""

import numpy as np
import pytest
import soundfile

from blspkd.audio.chunks import chunks
from blspkd.errors import AudioError

RATE = 16000


@pytest.fixture
def recording(tmp_path):
    waveform = (0.1 * np.random.default_rng(0).standard_normal(10 * RATE)).astype(np.float32)
    waveform[int(2.5 * RATE):int(2.7 * RATE)] = 0.0
    path = tmp_path / "long.wav"
    soundfile.write(path, waveform, RATE, subtype="FLOAT")
    return path, waveform


@pytest.mark.parametrize("as_file", [True, False])
def test_pieces_add_up_and_are_cut_where_it_is_quiet(recording, as_file):
    path, waveform = recording
    pieces = list(chunks(path if as_file else (RATE, waveform), RATE, 3.0))
    assert max(map(len, pieces)) <= 3 * RATE
    assert 2.5 * RATE < len(pieces[0]) < 2.7 * RATE
    np.testing.assert_array_equal(np.concatenate(pieces), waveform)


def test_a_file_is_read_piece_by_piece(recording, monkeypatch):
    read = []
    monkeypatch.setattr("blspkd.audio.chunks.load", lambda source, rate: read.append(source) or np.ones(3 * RATE))
    next(chunks(recording[0], RATE, 3.0))
    assert [(source.start, source.end) for source in read] == [(0.0, 3.0)]


def test_a_piece_has_a_length(recording):
    with pytest.raises(AudioError, match="chunk"):
        list(chunks(recording[0], RATE, 0.0))


@pytest.mark.parametrize(("audio", "said"), [
    ("https://host/x.wav", "URL"), ("no/such.wav", "relative paths count"), ("cat x |", "command")])
def test_what_is_no_file_is_told_as_of_any_recording(audio, said):
    with pytest.raises(AudioError, match=said):
        list(chunks(audio, RATE, 3.0))


def test_several_channels_need_a_choice(recording):
    path, waveform = recording
    soundfile.write(path, np.stack([waveform, -waveform], 1), RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="channel"):
        list(chunks(path, RATE, 3.0))
    np.testing.assert_array_equal(np.concatenate(list(chunks(path, RATE, 3.0, channel=1))), -waveform)


@pytest.mark.parametrize("as_file", [True, False])
def test_the_last_piece_is_no_scrap(recording, as_file, tmp_path):
    path, waveform = recording
    waveform = np.concatenate([waveform[:3 * RATE], waveform[:RATE // 50]])
    waveform[int(2.95 * RATE):] *= 0.01  # most quiet at the end
    soundfile.write(path, waveform, RATE, subtype="FLOAT")
    pieces = list(chunks(path if as_file else (RATE, waveform), RATE, 3.0))
    assert len(pieces) == 2 and len(pieces[1]) >= RATE - 0.05 * RATE


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), "30", None])
def test_a_length_is_a_number(recording, seconds):
    with pytest.raises(AudioError, match="chunk"):
        list(chunks(recording[0], RATE, seconds))


def test_a_rate_that_is_not_the_files_is_refused(recording):
    with pytest.raises(AudioError, match="rate says 8000"):
        list(chunks(recording[0], RATE, 3.0, rate=8000))

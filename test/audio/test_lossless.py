"""An utterance as a file of its own: the samples that its source gives, to the last bit."""

import os

import numpy as np
import pytest
import soundfile

from blspkd.audio.archive import close_shards, file_of, piece_of, read_piece
from blspkd.audio.lossless import encoded, encoded_samples
from blspkd.audio.samples import AudioSource, load, size_and_date
from blspkd.errors import AudioError

FORMATS = {"pcm16.wav": "PCM_16", "pcm24.wav": "PCM_24", "pcm32.wav": "PCM_32", "float.wav": "FLOAT",
           "u8.wav": "PCM_U8", "16.flac": "PCM_16", "24.flac": "PCM_24",
           "vorbis.ogg": "VORBIS", "layer3.mp3": "MPEG_LAYER_III"}


def noise(rate, channels=1, seconds=2.0):
    samples = np.random.default_rng(3).standard_normal((int(rate * seconds), channels)) * 0.2
    return np.clip(samples, -1, 1)


def as_piece(folder, data: bytes) -> AudioSource:
    (folder / "shard.arrow").write_bytes(b"before" + data + b"behind")
    close_shards()
    return AudioSource(piece_of(str(folder / "shard.arrow"), 6, len(data)))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("segment", [(0.0, None), (0.3, 1.7), (0.5, None)], ids=["whole", "inner", "end"])
@pytest.mark.parametrize("rate, channels, channel", [(16000, 1, None), (16000, 1, 0), (44100, 2, 1)])
def test_it_loads_as_its_source_does(tmp_path, name, segment, rate, channels, channel):
    path = tmp_path / name
    soundfile.write(path, noise(rate, channels), rate, subtype=FORMATS[name])
    source = AudioSource(str(path), *segment, channel)
    packed = as_piece(tmp_path, encoded(source))
    assert load(packed).tobytes() == load(source).tobytes()
    if segment == (0.0, None) and channels == 1:
        assert read_piece(packed.path) == path.read_bytes()


def test_speech_is_cut_into_flac_and_what_has_more_bits_into_float():
    rate = 16000
    samples = np.round(noise(rate)[:, 0] * 32768).clip(-32768, 32767).astype(np.float32) / np.float32(32768)
    samples[:2] = -1.0, 32767 / 32768
    assert encoded_samples(samples, rate)[:4] == b"fLaC" and len(encoded_samples(samples, rate)) < 2 * len(samples)
    assert encoded_samples(samples / 300, rate)[:4] == b"RIFF"
    assert encoded_samples(-samples * 0, rate)[:4] == b"RIFF"  # -0.0
    assert encoded_samples(np.ones(9, np.float32), rate)[:4] == b"RIFF"  # flac ends just below 1
    assert encoded_samples(samples, 1_000_000)[:4] == b"RIFF"  # a rate that flac does not know


def test_an_archives_entry_is_packed_without_its_neighbours(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(16000), 16000, subtype="PCM_16")
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.ark").write_bytes(b"one " + data + b"two " + data)
    assert encoded(AudioSource(f"{tmp_path}/a.ark:4")) == data
    assert encoded(as_piece(tmp_path, data)) == data


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_what_is_truncated_is_not_packed(tmp_path, keep):
    soundfile.write(tmp_path / "a.flac", noise(16000), 16000)
    data = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(data[:int(keep * len(data))])
    with pytest.raises(AudioError, match="a.flac"):
        encoded(AudioSource(f"{tmp_path}/a.flac"))


def test_a_piece_names_its_shard_when_that_is_cut_or_gone(tmp_path):
    source = as_piece(tmp_path, encoded_samples(np.zeros(1600, np.float32), 16000))
    shard = tmp_path / "shard.arrow"
    assert file_of(source.path) == str(shard) and size_and_date(source.path)[0] == shard.stat().st_size
    os.truncate(shard, 20)
    with pytest.raises(AudioError, match=r"shard.arrow:6\+\d+: the shard is truncated"):
        load(source)
    shard.unlink()
    close_shards()
    with pytest.raises(AudioError, match="no such shard"):
        load(source)

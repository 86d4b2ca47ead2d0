"""Pieces of mp3 files are right and cheap, files that hide their length are refused, and the decoder prints nothing."""

import io
import os
from functools import cache
from multiprocessing import get_context
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blspkd.audio.mp3 import _frame, caught_messages, index_frames
from blspkd.audio.samples import AudioSource, copy_to_wav, duration, load
from blspkd.errors import AudioError

RATE = 16000


def tone(seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """float32 [samples, channels]"""
    time = np.arange(int(seconds * rate))[:, None] / rate
    return (0.4 * np.sin(2 * np.pi * (440 + 100 * np.arange(channels)) * time)).astype(np.float32)


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.fixture(scope="module")
def noise():
    """noise(rate, channels, seconds, seed, **how) -> an mp3 file whose frames borrow bits from those before them.

    Encoding is what costs here: the same noise is encoded once.
    """
    @cache
    def make(rate: int, channels: int, seconds: int, seed: int, **how) -> bytes:
        generator, raw = np.random.default_rng(seed), io.BytesIO()
        with soundfile.SoundFile(raw, "w", rate, channels, format="MP3", **how) as file:
            for _ in range(seconds):
                file.write(generator.standard_normal((rate, channels)) * generator.uniform(0.01, 0.1))
        return raw.getvalue()

    return make


@pytest.fixture
def long_mp3(noise, tmp_path) -> str:
    """A file of its own for every test: some write into it."""
    (tmp_path / "long.mp3").write_bytes(noise(RATE, 1, 300, 8))
    return str(tmp_path / "long.mp3")


def pieces(path: str, count: int = 20) -> list[AudioSource]:
    """In no order of time."""
    starts = np.random.default_rng(0).permutation(count) * 290 / count
    return [AudioSource(path, float(start), float(start) + 5) for start in starts]


def from_the_beginning(source: AudioSource) -> np.ndarray:
    """What the decoder gives that has walked there, through the whole file."""
    with soundfile.SoundFile(source.path) as file:
        first, last = round(source.start * file.samplerate), round(source.end * file.samplerate)
        lead = min(first, 2 * file.samplerate)
        file.seek(first - lead)
        return file.read(lead + last - first, dtype="float32", always_2d=True)[lead:, source.channel or 0]


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT", "no length", "tagged", "archive"])
@pytest.mark.parametrize(("rate", "channels", "seconds"), [(16000, 1, 60), (44100, 2, 30), (8000, 1, 60)])
def test_pieces_of_mp3_are_what_the_decoder_gives_that_walks_there(noise, tmp_path, rate, channels, seconds, mode):
    path, generator = tmp_path / "a.mp3", np.random.default_rng(1)
    data = noise(rate, channels, seconds, 0, compression_level=0.9,
                 bitrate_mode="VARIABLE" if mode == "VARIABLE" else "CONSTANT")
    path.write_bytes(data)
    if mode == "no length":
        path.write_bytes(data[_frame(data, 0).size:])
    elif mode == "tagged":
        path.write_bytes(b"ID3\x04\x00\x00\x00\x00\x01\x01" + bytes(129) + data + b"TAG" + bytes(125))
    name = str(path)
    if mode == "archive":
        (tmp_path / "ark").write_bytes(b"a AUDIO\x04" + len(data).to_bytes(4, "little") + data)
        name = f"{tmp_path / 'ark'}:2"
    length = soundfile.info(path).frames / rate
    for start in [*generator.uniform(0, seconds - 2, 40), 0.0, 1.0, seconds - 3.0, seconds - 2.1]:
        end = min(float(start) + 1.5, length)
        channel = None if channels == 1 else 1
        expected = from_the_beginning(AudioSource(str(path), float(start), end, channel))
        found = load(AudioSource(name, float(start), end, channel), rate)
        assert np.array_equal(found, np.clip(expected, -1, 1)), start


def test_pieces_of_mp3_are_the_same_whatever_was_read_before(long_mp3):
    sources = pieces(long_mp3)
    before = [load(source) for source in sources]
    for source, samples in reversed(list(zip(sources, before, strict=True))):
        assert np.array_equal(load(source), samples)


@pytest.mark.parametrize("what", ["tag", "junk", "another rate"])
def test_mp3_with_something_between_its_frames_is_walked_through(long_mp3, tmp_path, what):
    soundfile.write(tmp_path / "other.mp3", tone(1.0, 8000), 8000, format="MP3")
    between = {"tag": b"ID3\x04\x00\x00\x00\x00\x01\x01" + bytes(129), "junk": b"junk" * 100,
               "another rate": (tmp_path / "other.mp3").read_bytes()}[what]
    data = Path(long_mp3).read_bytes()
    middle = 0
    while middle < len(data) // 2:
        middle += _frame(data, middle).size
    Path(long_mp3).write_bytes(data[:middle] + between + data[middle:])
    assert index_frames(io.BytesIO(data)).places
    assert not index_frames(io.BytesIO(Path(long_mp3).read_bytes())).places
    if what == "tag":
        source = AudioSource(long_mp3, 280.0, 282.0)
        assert np.array_equal(load(source), from_the_beginning(source))


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="nothing counts the bytes that are read")
def test_pieces_of_a_long_mp3_cost_what_they_are_long(long_mp3):
    """Its frames are walked through once; 7 s of 300 s are decoded."""
    load(AudioSource(long_mp3, 290.0, 295.0))
    before = bytes_read()
    for source in pieces(long_mp3):
        load(source)
    assert (bytes_read() - before) / 20 < 0.1 * os.stat(long_mp3).st_size


def test_another_recording_under_the_same_path_is_read_anew(noise, long_mp3, tmp_path):
    load(AudioSource(long_mp3, 100.0, 105.0))
    (tmp_path / "another.mp3").write_bytes(noise(RATE, 1, 110, 11))
    os.replace(tmp_path / "another.mp3", long_mp3)
    source = AudioSource(long_mp3, 100.0, 105.0)
    assert np.array_equal(load(source), from_the_beginning(source))


def test_processes_and_threads_do_not_disturb_each_other(long_mp3):
    sources = pieces(long_mp3, 6) * 2
    expected = [load(source) for source in sources]
    with get_context("fork").Pool(2) as processes, ThreadPool(3) as threads:
        for found in (processes.map(load, sources, 1), threads.map(load, sources, 1), map(load, sources)):
            for one, other in zip(found, expected, strict=True):
                assert np.array_equal(one, other)


def test_a_long_mp3_is_copied_without_a_break(long_mp3, tmp_path):
    copy_to_wav(long_mp3, tmp_path / "copy.wav")
    copied, expected = soundfile.read(tmp_path / "copy.wav")[0], soundfile.read(long_mp3)[0]
    assert len(copied) == len(expected) and np.abs(copied - expected).max() <= 2 / 32768


def test_processes_that_are_started_meanwhile_can_read_and_print(long_mp3, capfd):
    source = AudioSource(long_mp3, 100.0, 105.0)
    with ThreadPool(1) as threads:
        reading = threads.map_async(load, [source] * 40)
        children = [get_context("fork").Process(target=lambda: (load(source), os.write(2, b"read "))) for _ in range(4)]
        for child in children:
            child.start()
        for child in children:
            child.join(30)
        reading.get()
    assert [child.exitcode for child in children] == [0] * 4 and capfd.readouterr().err == "read " * 4


def test_seeking_in_mp3_prints_nothing(long_mp3, capfd, caplog):
    for source in pieces(long_mp3):
        load(source)
    assert capfd.readouterr().err == "" and not caplog.records


@pytest.mark.parametrize("damage", ["hole", "flips"])
def test_damaged_mp3_is_told_once_and_by_name(long_mp3, capfd, caplog, damage):
    data = bytearray(Path(long_mp3).read_bytes())
    middle = len(data) // 2
    if damage == "hole":
        del data[middle:middle + 100]
    else:
        for place in range(middle, middle + 6000, 300):
            data[place] ^= 0x55
    Path(long_mp3).write_bytes(data)
    for _ in range(2):
        load(long_mp3)
    assert capfd.readouterr().err == ""
    [record] = caplog.records
    assert f"{long_mp3}: damaged? " in record.getMessage() and "mpg123" not in record.getMessage()


def test_what_others_print_while_mp3_is_decoded_is_not_lost(capfd):
    with caught_messages() as said:
        os.write(2, b"[src/libmpg123/layer3.c:INT123_do_layer3():1804] error: dequantization failed!\nan error\n")
        os.write(2, b"Note: Trying to resync...\nof ours")
    assert capfd.readouterr().err == "an error\nof ours"
    assert said == ["error: dequantization failed!", "Note: Trying to resync..."]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_mp3_that_hides_its_length_is_refused(tmp_path, rate, channels):
    samples = tone(9.0, rate, channels)
    samples[3 * rate:] *= 0.001
    path = tmp_path / "whole.mp3"
    soundfile.write(path, samples, rate, format="MP3", bitrate_mode="VARIABLE")
    assert duration(AudioSource(str(path), channel=0)) == pytest.approx(9.0, abs=0.1)
    data = path.read_bytes()
    second = _frame(data, 0).size  # the first frame holds the length and no sound
    for name, contents in {"no length": data[second:], "joined": data + data, "tagged": data + b"ID3" + data}.items():
        (tmp_path / name).write_bytes(contents)
        for read in (duration, load):
            with pytest.raises(AudioError, match=f"{name}: only .* s would be read"):
                read(AudioSource(str(tmp_path / name), channel=0))


def test_mp3_of_constant_rate_needs_no_length(tmp_path):
    path = tmp_path / "whole.mp3"
    soundfile.write(path, tone(9.0), RATE, format="MP3", bitrate_mode="CONSTANT", compression_level=0.5)
    data = path.read_bytes()
    (tmp_path / "cut.mp3").write_bytes(data[_frame(data, 0).size:])
    assert duration(str(tmp_path / "cut.mp3")) == pytest.approx(9.0, abs=0.15)


def test_frames_of_mp3_are_counted_between_tags(tmp_path):
    def samples(data: bytes) -> int:
        return index_frames(io.BytesIO(data)).samples

    path = tmp_path / "whole.mp3"
    soundfile.write(path, tone(2.0), RATE, format="MP3")
    data = path.read_bytes()
    whole = samples(data)
    assert 0 <= whole - 2 * RATE <= 5 * 1152
    tag = b"ID3\x04\x00\x00\x00\x00\x01\x01" + b"\xff\xfb\x90\x00" + bytes(125)  # what looks like a frame is in it
    assert samples(tag + data + b"TAG" + bytes(125)) == whole
    assert samples(data + tag + data) == 2 * whole
    assert samples(b"") == samples(bytes(5000) + b"\xff") == 0

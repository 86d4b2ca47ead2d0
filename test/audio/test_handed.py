"""Handed-over audio of every form is the same waveform, or one clear error within a second."""

import gzip
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from blspkd.audio import handed, mp3
from blspkd.audio.handed import read_audio
from blspkd.audio.samples import AudioSource, load
from blspkd.errors import AudioError

RATE = 16000
SPEECH = np.sin(np.arange(8000) / 9) * np.linspace(0, 0.9, 8000)  # float64, half a second
OTHER = SPEECH[::-1] / 2
INT16 = (SPEECH * 2**15).astype(np.int16)
STEREO = np.stack([SPEECH, OTHER], axis=1)  # [samples, channels]


def encoded(samples: np.ndarray = SPEECH, form: str = "WAV", subtype: str = "DOUBLE", rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    """float64, as libsndfile gives it."""
    return soundfile.read(io.BytesIO(data))[0]


def resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    return np.clip(soxr.resample(samples, rate, RATE), -1, 1)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def at_its_end(data: bytes) -> io.BytesIO:
    """As after writing into it."""
    file = io.BytesIO(data)
    file.seek(0, io.SEEK_END)
    return file


def spooled(data: bytes) -> tempfile.SpooledTemporaryFile:
    file = tempfile.SpooledTemporaryFile()
    file.write(data)
    return file


def pipe(data: bytes) -> io.BufferedReader:
    """A file that cannot seek; `data` has to fit into it."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return os.fdopen(reading, "rb")


def in_archive(path: Path, data: bytes) -> str:
    path.write_bytes(b"a " + data)
    return f"{path}:2"


FLAC = encoded(subtype="PCM_24", form="FLAC")
MP3 = encoded(form="MP3", subtype="MPEG_LAYER_III")
OGG = encoded(form="OGG", subtype="VORBIS")
SHORTENED = b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n".ljust(3000)
OPUS = encoded(form="OGG", subtype="OPUS")

RIGHT = {  # (path of a file that may be written -> audio, the reference in float64, tolerance, other arguments)
    "a path": (lambda p: str(written(p, encoded())), SPEECH, 1e-7, {}),
    "a Path": (lambda p: written(p, encoded()), SPEECH, 1e-7, {}),
    "a Path and its rate": (lambda p: written(p, encoded()), SPEECH, 1e-7, {"rate": RATE}),
    "an entry of an archive": (lambda p: in_archive(p, encoded()), SPEECH, 1e-7, {}),
    "a chosen channel of a file": (lambda p: written(p, encoded(STEREO)), OTHER, 1e-7, {"channel": 1}),
    "the only channel of a file": (lambda p: written(p, encoded()), SPEECH, 1e-7, {"channel": 0}),
    "a file of another rate": (lambda p: written(p, encoded(rate=44100)), resampled(SPEECH, 44100), 1e-5, {}),
    "wav as bytes": (lambda p: encoded(), SPEECH, 1e-7, {}),
    "16 bit wav as bytes": (lambda p: encoded(INT16, subtype="PCM_16"), INT16 / 2**15, 0, {}),
    "flac as a bytearray": (lambda p: bytearray(FLAC), SPEECH, 2**-23, {}),
    "flac as a memoryview": (lambda p: memoryview(FLAC), SPEECH, 2**-23, {}),
    "mp3 as bytes": (lambda p: MP3, decoded(MP3), 1e-6, {}),
    "ogg as bytes": (lambda p: OGG, decoded(OGG), 1e-6, {}),
    "opus as bytes": (lambda p: OPUS, decoded(OPUS), 1e-6, {}),
    "a chosen channel of bytes": (lambda p: encoded(STEREO), OTHER, 1e-7, {"channel": np.int64(1)}),
    "BytesIO": (lambda p: io.BytesIO(encoded()), SPEECH, 1e-7, {}),
    "BytesIO at its end": (lambda p: at_its_end(encoded()), SPEECH, 1e-7, {}),
    "BytesIO with mp3": (lambda p: at_its_end(MP3), decoded(MP3), 1e-6, {}),
    "an open file": (lambda p: open(written(p, encoded()), "rb"), SPEECH, 1e-7, {}),
    "an unbuffered file with mp3": (lambda p: open(written(p, MP3), "rb", buffering=0), decoded(MP3), 1e-6, {}),
    "a spooled file with mp3": (lambda p: spooled(MP3), decoded(MP3), 1e-6, {}),
    "a compressed file": (lambda p: gzip.open(written(p, gzip.compress(MP3))), decoded(MP3), 1e-6, {}),
    "a pipe": (lambda p: pipe(FLAC), SPEECH, 2**-23, {}),
    "rate and float64": (lambda p: (RATE, SPEECH), SPEECH, 1e-7, {}),
    "rate and float32": (lambda p: (np.int32(RATE), SPEECH.astype(np.float32)), SPEECH, 1e-7, {}),
    "rate and int16": (lambda p: (RATE, INT16), INT16 / 2**15, 0, {}),
    "rate and int32": (lambda p: (RATE, (SPEECH * 2**31).astype(np.int32)), SPEECH, 1e-7, {}),
    "rate and uint8": (lambda p: (RATE, (SPEECH * 2**7 + 128).astype(np.uint8)), SPEECH, 2**-7, {}),
    "rate and array of another rate": (lambda p: (8000, SPEECH), resampled(SPEECH, 8000), 1e-5, {}),
    "rate and a little above 1": (lambda p: (RATE, SPEECH * 1.5), np.clip(SPEECH * 1.5, -1, 1), 1e-7, {}),
    "a dictionary": (lambda p: {"path": None, "array": SPEECH, "sampling_rate": RATE}, SPEECH, 1e-7, {}),
    "an array": (lambda p: SPEECH, SPEECH, 1e-7, {"rate": float(RATE)}),
    "a list": (lambda p: SPEECH.tolist(), SPEECH, 1e-7, {"rate": RATE}),
    "a tensor": (lambda p: torch.from_numpy(SPEECH).requires_grad_(), SPEECH, 1e-7, {"rate": RATE}),
    "a tensor of int16": (lambda p: torch.from_numpy(INT16), INT16 / 2**15, 0, {"rate": RATE}),
    "a tensor of bfloat16": (lambda p: torch.from_numpy(SPEECH).bfloat16(), SPEECH, 4e-3, {"rate": RATE}),
    "one channel in front": (lambda p: torch.from_numpy(SPEECH)[None], SPEECH, 1e-7, {"rate": RATE}),
    "one channel behind": (lambda p: SPEECH[:, None], SPEECH, 1e-7, {"rate": RATE, "channel": 0}),
    "channels in front": (lambda p: STEREO.T, OTHER, 1e-7, {"rate": RATE, "channel": 1}),
    "channels behind": (lambda p: (RATE, STEREO), OTHER, 1e-7, {"channel": 1}),
    "channels of a dictionary": (lambda p: {"array": STEREO.T, "sampling_rate": RATE}, SPEECH, 1e-7, {"channel": 0}),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_every_form_gives_the_samples(kind, tmp_path):
    make, expected, tolerance, arguments = RIGHT[kind]
    waveform = read_audio(make(tmp_path / "a.wav"), RATE, max_seconds=60, **arguments)
    assert waveform.dtype == np.float32 and waveform.shape == expected.shape and waveform.flags["C_CONTIGUOUS"]
    assert np.abs(waveform - expected).max() <= tolerance


def spoilt(value: float) -> np.ndarray:
    samples = SPEECH.copy()
    samples[1234] = value
    return samples


def closed(data: bytes) -> io.BytesIO:
    file = io.BytesIO(data)
    file.close()
    return file


WRONG = {  # (path of a file that may be written -> audio, message, other arguments)
    "nothing": (lambda p: None, "is not audio but NoneType; give a path, .*array", {"rate": RATE}),
    "an object": (lambda p: object(), "is not audio but object", {"rate": RATE}),
    "a list of texts": (lambda p: ["a.wav"], "is not audio but list", {"rate": RATE}),
    "rows of several lengths": (lambda p: [[0.1], [0.1, 0.2]], "is not audio but list", {"rate": RATE}),
    "a tensor without values": (lambda p: torch.zeros(9, device="meta"), "is not audio but Tensor", {"rate": RATE}),
    "a number": (lambda p: 0.5, r"the shape \(\); give \[samples\]", {"rate": RATE}),
    "http": (lambda p: "http://example.com/a.wav", "is a URL.*download it first", {}),
    "https": (lambda p: "HTTPS://example.com/a.wav", "is a URL.*download it first", {}),
    "https as a Path": (lambda p: Path("https://example.com/a.wav"), "is a URL.*download it first", {}),
    "data": (lambda p: f"data:audio/wav;base64,{'A' * 10**6}", "is a URL.*bytes", {}),
    "file": (lambda p: f"file://{written(p, encoded())}", "is a URL", {}),
    "base64": (lambda p: "UklGR" * 10**5, "is not a path; .*base64", {}),
    "no name": (lambda p: "", "'' is not a path", {}),
    "a command": (lambda p: f"touch {p} |", "is a command", {}),
    "standard input": (lambda p: "-", "'-' is a command or standard input", {}),
    "no file": (lambda p: p, "a.wav: there is no such file; relative paths count", {}),
    "a folder": (lambda p: p.parent, "not a regular file", {}),
    "a device": (lambda p: os.devnull, "not a regular file", {}),
    "a name with NUL": (lambda p: f"{p}\0", "cannot be read", {}),
    "an empty file": (lambda p: written(p, b""), "a.wav: is an empty file", {}),
    "a text file": (lambda p: written(p, b"no audio\n" * 99), "a.wav: is not audio that libsndfile can decode", {}),
    "a truncated file": (lambda p: written(p, encoded()[:9000]), "a.wav: the file is truncated", {}),
    "several channels of a file": (lambda p: written(p, encoded(STEREO)), "has 2 channels; .*channel=0", {}),
    "a silent file": (lambda p: written(p, encoded(SPEECH * 0)), "a.wav: is silent, every one of its 8000", {}),
    "no bytes": (lambda p: b"", "is empty", {}),
    "bytes of something": (lambda p: bytes(range(1, 255)) * 9, "is not audio that libsndfile can decode", {}),
    "truncated bytes": (lambda p: encoded()[:9000], "the file is truncated", {}),
    "truncated flac": (lambda p: FLAC[:-2000], "truncated", {}),
    "half an mp3": (lambda p: MP3[:len(MP3) // 2], "truncated", {}),
    "compressed SPHERE": (lambda p: SHORTENED, "uncompress it with sph2pipe", {}),
    "bytes without samples": (lambda p: encoded(SPEECH[:0]), "no samples", {}),
    "NaN in bytes": (lambda p: encoded(spoilt(np.nan)), "NaN or Inf at sample 1234", {}),
    "several channels of bytes": (lambda p: encoded(STEREO), "has 2 channels; .*channel=0", {}),
    "a channel that is not there": (lambda p: encoded(), "channel 1 is chosen, and there are 1", {"channel": 1}),
    "a negative channel": (lambda p: encoded(STEREO), "channel -1 is chosen", {"channel": -1}),
    "a named channel": (lambda p: encoded(STEREO), "channel is 'left'; give a whole number", {"channel": "left"}),
    "a channel that is a truth value": (lambda p: encoded(STEREO), "channel is True", {"channel": True}),
    "another rate than that of the file": (lambda p: encoded(), "rate of 16000 Hz, and rate says 8000", {"rate": 8000}),
    "a wav of a slow rate": (lambda p: encoded(rate=8), "sampling rate is 8; give", {}),
    "an empty BytesIO": (lambda p: io.BytesIO(), "is empty", {}),
    "a text that is a file": (lambda p: io.StringIO("no audio"), "file of text; .*'rb'", {}),
    "a file opened for text": (lambda p: open(written(p, b"no audio")), "file of text; .*'rb'", {}),
    "a closed file": (lambda p: closed(encoded()), "cannot be read: I/O operation on closed file", {}),
    "a file for writing": (lambda p: open(p, "wb"), "cannot be read", {}),
    "an array without rate": (lambda p: SPEECH, "does not say its sampling rate; give rate", {}),
    "a list without rate": (lambda p: SPEECH.tolist(), "does not say its sampling rate; give rate", {}),
    "a rate in kHz": (lambda p: SPEECH, "sampling rate is 16; give .*Hz", {"rate": 16}),
    "rate 0": (lambda p: (0, SPEECH), "sampling rate is 0;", {}),
    "a negative rate": (lambda p: (-16000, SPEECH), "sampling rate is -16000;", {}),
    "an endless rate": (lambda p: (float("inf"), SPEECH), "sampling rate is inf;", {}),
    "a rate that is no number": (lambda p: SPEECH, "sampling rate is nan;", {"rate": float("nan")}),
    "a rate that is a truth value": (lambda p: (True, SPEECH), "sampling rate is True;", {}),
    "a rate that is a text": (lambda p: SPEECH, "sampling rate is '16 kHz';", {"rate": "16 kHz"}),
    "two arrays": (lambda p: (SPEECH, SPEECH), "sampling rate is array", {}),
    "two rates": (lambda p: (16000, SPEECH), "rate of 16000 Hz, and rate says 8000", {"rate": 8000}),
    "array and rate": (lambda p: (SPEECH, RATE), r"tuple has to be \(rate, array\)", {}),
    "three parts": (lambda p: (RATE, SPEECH, 1), r"tuple has to be \(rate, array\)", {}),
    "a rate and bytes": (lambda p: (RATE, encoded()), "is not audio but bytes", {}),
    "a dictionary without rate": (lambda p: {"array": SPEECH}, "keys 'array' and 'sampling_rate', .*'array'", {}),
    "a dictionary with an empty rate": (lambda p: {"array": SPEECH, "sampling_rate": None}, "rate is None", {}),
    "stereo": (lambda p: (RATE, STEREO), "has 2 channels; .*channel=0", {}),
    "stereo in front": (lambda p: (RATE, STEREO.T), "has 2 channels; .*channel=0", {}),
    "as many channels as samples": (lambda p: (RATE, np.eye(3)), r"shape \(3, 3\); .*more samples", {"channel": 0}),
    "a batch of stereo": (lambda p: (RATE, STEREO[None]), r"shape \(1, 8000, 2\)", {"channel": 0}),
    "no samples": (lambda p: (RATE, []), "no samples", {}),
    "no samples in two channels": (lambda p: (RATE, np.zeros((2, 0))), "no samples", {"channel": 0}),
    "NaN": (lambda p: (RATE, spoilt(np.nan)), "NaN or Inf at sample 1234", {}),
    "Inf": (lambda p: (RATE, spoilt(-np.inf)), "NaN or Inf at sample 1234", {}),
    "16 bit integers as float": (lambda p: (RATE, INT16.astype(np.float32)), "samples reach .*32768", {}),
    "int64": (lambda p: (RATE, INT16.astype(np.int64)), "int64; give float32, or int16", {}),
    "truth values": (lambda p: (RATE, SPEECH > 0), "bool", {}),
    "silence": (lambda p: (RATE, np.zeros(8000, np.int16)), "is silent, every one of its 8000 samples is 0", {}),
    "a constant": (lambda p: (RATE, np.full(8000, 0.25)), "is silent, .* is 0.25", {}),
    "a constant of another rate": (lambda p: (44100, np.full(8000, 0.25)), "is silent, .* is 0.25", {}),
    "a silent channel": (lambda p: (RATE, STEREO * [1, 0]), "is silent.*another channel", {"channel": 1}),
    "silence as opus": (lambda p: encoded(SPEECH * 0, form="OGG", subtype="OPUS"), "is silent", {}),
    "too short": (lambda p: (192000, [0.1, 0.2, 0.3]), "too short", {}),
}


@pytest.mark.parametrize("kind", WRONG)
def test_everything_else_is_one_clear_error_within_a_second(kind, tmp_path):
    make, message, arguments = WRONG[kind]
    audio = make(tmp_path / "a.wav")
    began = time.process_time()
    with pytest.raises(AudioError, match=f"^it: .*{message}") as raised:
        read_audio(audio, RATE, name="it", **arguments)
    assert time.process_time() - began < 1
    assert len(str(raised.value).splitlines()) == 1 and len(str(raised.value)) < 400


@settings(max_examples=30)
@given(npst.arrays(np.int16, st.tuples(st.integers(16, 300), st.integers(1, 3))), st.sampled_from([8000, 16000, 44100]),
       st.sampled_from([8000, 16000, 22050]))
def test_a_wav_is_the_same_however_it_is_handed_over(samples, rate, target):
    samples[:2] = [[-9], [9]]  # not silent
    for channel in range(samples.shape[1]):
        data = encoded(samples, subtype="PCM_16", rate=rate)
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            expected = load(AudioSource(file.name, channel=channel), target)
            for audio in (file.name, Path(file.name), data, io.BytesIO(data), file, (rate, samples), (rate, samples.T),
                          {"array": torch.from_numpy(samples), "sampling_rate": rate}):
                np.testing.assert_array_equal(read_audio(audio, target, channel=channel), expected)


def test_what_was_given_is_not_changed():
    samples = SPEECH.astype(np.float32) * 2
    before = samples.copy()
    waveform = read_audio(samples, RATE, rate=RATE)
    waveform += 1
    np.testing.assert_array_equal(samples, before)


def two_hours_of_flac(path: Path) -> Path:
    with soundfile.SoundFile(path, "w", 8000, 1, format="FLAC") as file:
        for _ in range(12):
            file.write(np.zeros(8000 * 600, np.int16))
    assert path.stat().st_size < 1 << 20
    return path


def an_hour_of_mp3(path: Path) -> Path:
    """Ten seconds again and again, of which every frame is as long as the others."""
    soundfile.write(path, np.tile(SPEECH, 20), RATE, format="MP3", bitrate_mode="CONSTANT", compression_level=0.9)
    data = path.read_bytes()
    return written(path, data[mp3._frame(data, 0).size:] * 360)


LONG = {"flac": two_hours_of_flac, "mp3": an_hour_of_mp3}


@pytest.mark.parametrize("how", [str, Path.read_bytes, lambda path: open(path, "rb")], ids=["path", "bytes", "file"])
@pytest.mark.parametrize("form", LONG)
def test_long_recordings_are_refused_by_their_header(form, how, tmp_path, monkeypatch):
    audio = how(LONG[form](tmp_path / "long"))
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))
    monkeypatch.setattr(mp3, "index_frames", lambda *_: pytest.fail("walked through"))
    began = time.process_time()
    with pytest.raises(AudioError, match=r"^it: .*is \d+.\d s long and at most 60 s are accepted; cut it"):
        read_audio(audio, RATE, name="it", max_seconds=60)
    assert time.process_time() - began < 1


LIMITED = """
import resource, sys, time
from pathlib import Path
from blspkd.audio.handed import read_audio
from blspkd.errors import AudioError
assert "torch" not in sys.modules
room = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (16 << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
for audio, limit in ((sys.argv[1], 3600), (open(sys.argv[1], "rb"), 3600), (sys.argv[1], None)):
    began = time.process_time()
    try:
        read_audio(audio, 16000, max_seconds=limit)
    except AudioError as error:
        print(time.process_time() - began < 1, error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="nothing tells how much memory is taken")
def test_long_recordings_are_refused_in_little_memory(tmp_path):
    """Without a torch, too: 16 MiB besides what the packages take, of 220 MiB that the samples would."""
    path = two_hours_of_flac(tmp_path / "long.flac")
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refusal = "is 7200.0 s long and at most 3600 s are accepted; cut it into shorter pieces"
    assert done.stdout.splitlines() == [f"True audio: {path}: {refusal}", f"True audio: {refusal}",
                                        "True audio: does not fit into memory; hand it over in shorter pieces"]


def test_long_arrays_are_refused_by_their_length(monkeypatch):
    monkeypatch.setattr(handed, "as_float", lambda *_: pytest.fail("copied"))
    hours = np.broadcast_to(np.float32(0.1), (RATE * 36000,))
    for audio in ((RATE, hours), {"array": hours[None], "sampling_rate": RATE}):
        with pytest.raises(AudioError, match="is 36000.0 s long and at most 60 s"):
            read_audio(audio, RATE, max_seconds=60)


def test_what_is_as_long_as_it_may_be_is_read():
    for audio in ((RATE, SPEECH), encoded()):
        assert len(read_audio(audio, RATE, max_seconds=0.5)) == 8000
        with pytest.raises(AudioError, match="is 0.5 s long and at most 0.499 s"):
            read_audio(audio, RATE, max_seconds=0.499)


def test_a_header_that_lies_about_its_length_costs_no_more_than_it_says():
    """An mp3 of an hour that calls itself as long as its first frames."""
    soundfile.write(short := io.BytesIO(), SPEECH, RATE, format="MP3", bitrate_mode="VARIABLE")
    frames = MP3[mp3._frame(MP3, 0).size:]
    began = time.process_time()
    with pytest.raises(AudioError, match="only 0.5. of its .* s would be read"):
        read_audio(short.getvalue() + frames * 3600, RATE, max_seconds=60)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("junk", [b"\xff", b"\xff\xfb\x90\x00", b"\0"], ids=["sync", "headers", "zeros"])
def test_megabytes_of_junk_behind_mp3_take_no_time(junk):
    began = time.process_time()
    waveform = read_audio(MP3 + junk * ((8 << 20) // len(junk)), RATE, max_seconds=60)
    assert np.abs(waveform - decoded(MP3)).max() < 1e-6
    assert time.process_time() - began < 1


def test_damaged_mp3_is_told_of_each_recording(caplog):
    """Files are told by their name once; data have none that could tell them apart."""
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 20 * RATE)
    data = bytearray(encoded(noise, form="MP3", subtype="MPEG_LAYER_III"))
    del data[len(data) // 2:len(data) // 2 + 100]
    for _ in range(2):
        read_audio(bytes(data), RATE, name="it")
    assert [record.getMessage().startswith("it: damaged? ") for record in caplog.records] == [True, True]


def test_many_channels_are_decoded_in_little_memory(monkeypatch):
    asked = []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda self, frames=-1, *args, **kwargs: (
        asked.append(frames), read(self, frames, *args, **kwargs))[1])
    samples = np.random.default_rng(0).integers(-99, 99, (20000, 200)).astype(np.int16)
    waveform = read_audio(encoded(samples, subtype="PCM_16"), RATE, channel=199)
    np.testing.assert_array_equal(waveform, samples[:, 199] / np.float32(2**15))
    assert max(asked) * 200 <= 1 << 21

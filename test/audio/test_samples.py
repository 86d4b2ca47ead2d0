"""Every format comes out as the same samples, and what cannot be used is refused by name."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from blspkd.audio.samples import AudioSource, copy_to_wav, duration, load
from blspkd.errors import AudioError

RATE = 16000
LOSSLESS = [("WAV", "PCM_16", 4e-5), ("WAV", "PCM_24", 1e-6), ("WAV", "PCM_32", 1e-6), ("WAV", "PCM_U8", 8e-3),
            ("WAV", "FLOAT", 0), ("WAV", "DOUBLE", 0), ("WAVEX", "PCM_16", 4e-5), ("WAVEX", "FLOAT", 0),
            ("WAVEX", "PCM_U8", 8e-3), ("WAVEX", "PCM_24", 1e-6), ("WAVEX", "PCM_32", 1e-6),
            ("RF64", "PCM_16", 4e-5), ("FLAC", "PCM_16", 4e-5), ("FLAC", "PCM_24", 1e-6), ("NIST", "PCM_16", 4e-5),
            ("AIFF", "PCM_16", 4e-5), ("AU", "PCM_16", 4e-5), ("CAF", "PCM_16", 4e-5)]
LOSSY = [("WAV", "ULAW"), ("WAV", "ALAW"), ("WAVEX", "ULAW"), ("WAVEX", "ALAW"),
         ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]


def tone(seconds: float = 1.0, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """float32 [samples, channels]: a sine of 440 Hz in the first channel, of 540 Hz in the second ..."""
    time = np.arange(int(seconds * rate))[:, None] / rate
    return (0.4 * np.sin(2 * np.pi * (440 + 100 * np.arange(channels)) * time)).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = RATE, form: str = "WAV", subtype: str = "PCM_16") -> str:
    soundfile.write(path, samples, rate, format=form, subtype=subtype)
    return str(path)


@pytest.fixture(scope="session")
def real_speech() -> Path:
    """Real recordings: the folder in BLSPKD_TEST_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("BLSPKD_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no real recordings here; set BLSPKD_TEST_DATA to their folder")
    return folder


@pytest.mark.parametrize(("form", "subtype", "tolerance"), LOSSLESS)
def test_lossless_formats_keep_the_samples(tmp_path, form, subtype, tolerance):
    samples = tone()
    path = write(tmp_path / "a", samples, form=form, subtype=subtype)
    loaded = load(AudioSource(path))
    assert loaded.dtype == np.float32 and loaded.shape == (RATE,)
    assert np.abs(loaded - samples[:, 0]).max() <= tolerance
    assert duration(AudioSource(path)) == 1.0


@pytest.mark.parametrize(("form", "subtype"), LOSSY)
def test_lossy_formats_come_close(tmp_path, form, subtype):
    path = write(tmp_path / "a", tone(), form=form, subtype=subtype)
    loaded = load(path)
    assert loaded.shape == (RATE,)
    assert np.abs(loaded - tone()[:, 0])[1000:-1000].max() < 0.05
    assert duration(path) == 1.0


@pytest.mark.parametrize(("form", "subtype"), [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"),
                                               ("NIST", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_random_access_equals_a_slice_of_the_whole(tmp_path, form, subtype):
    path = write(tmp_path / "a", tone(5), form=form, subtype=subtype)
    whole = load(path)
    for start, end in ((0.0, 0.5), (1.25, 2.0), (3.9999, 4.5), (4.0, None)):
        part = load(AudioSource(path, start, end))
        first, last = round(start * RATE), round((end or 5) * RATE)
        assert np.allclose(part, whole[first:last], atol=1e-6)
        assert duration(AudioSource(path, start, end)) == pytest.approx((last - first) / RATE)


def test_opus_random_access_comes_close(tmp_path):
    path = write(tmp_path / "a.ogg", tone(5), form="OGG", subtype="OPUS")
    assert np.allclose(load(AudioSource(path, 2.0, 3.0)), load(path)[2 * RATE : 3 * RATE], atol=2e-2)


def test_random_access_reads_only_what_is_needed(tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav", tone(60))
    asked = []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda self, frames=-1, *args, **kwargs: (
        asked.append(frames), read(self, frames, *args, **kwargs))[1])
    load(AudioSource(path, 30.0, 31.0))
    assert asked == [RATE]


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="nothing counts the bytes that are read")
@pytest.mark.parametrize(("form", "subtype"), [
    ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("RF64", "PCM_24"), ("NIST", "PCM_16"), ("OGG", "VORBIS"),
    ("ark", "PCM_16")])
def test_a_segment_of_a_long_file_costs_its_own_bytes(tmp_path, form, subtype):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 600 * 8000).astype(np.float32)
    path = str(tmp_path / "a")
    with soundfile.SoundFile(path, "w", 8000, 1, subtype, format="WAV" if form == "ark" else form) as file:
        for block in np.split(noise, 600):  # libsndfile crashes on writing minutes of Vorbis at once
            file.write(block)
    if form == "ark":
        data = Path(path).read_bytes()
        Path(path).write_bytes(b"a " + data + b"b " + data)
        path += f":{len(data) + 4}"
    whole = noise[500 * 8000:501 * 8000]
    before = bytes_read()
    part = load(AudioSource(path, 500.0, 501.0), 8000)
    assert bytes_read() - before < 400_000
    assert part.shape == whole.shape and (form == "OGG" or np.abs(part - whole).max() < 4e-5)


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def test_ten_hours_cost_nothing_until_they_are_read(tmp_path):
    path = Path(write(tmp_path / "a.wav", tone(0.1)))
    size = 36000 * RATE * 2
    data = bytearray(path.read_bytes()[:44])
    data[4:8], data[40:44] = (size + 36).to_bytes(4, "little"), size.to_bytes(4, "little")
    path.write_bytes(data)
    os.truncate(path, 44 + size)  # a hole: zeros that take no room
    began = time.perf_counter()
    assert duration(str(path)) == 36000
    assert not load(AudioSource(str(path), 35999.0, 36000.0)).any()
    assert time.perf_counter() - began < 2


def sphere(path: Path, data: np.ndarray, coding: str = "pcm", order: str = "01", channels: int = 1) -> str:
    """NIST SPHERE as its own tools write it."""
    head = (f"NIST_1A\n   1024\nsample_count -i {len(data)}\nsample_n_bytes -i {data.itemsize}\n"
            f"channel_count -i {channels}\nsample_byte_format -s{len(order)} {order}\nsample_rate -i {RATE}\n"
            f"sample_coding -s{len(coding)} {coding}\nend_head\n")
    path.write_bytes(head.encode().ljust(1024) + data.tobytes())
    return str(path)


@pytest.mark.parametrize(("kind", "order"), [("<i2", "01"), (">i2", "10")])
def test_sphere_of_either_byte_order_and_of_two_channels(tmp_path, kind, order):
    samples = np.round(tone(channels=2) * 32767)
    path = sphere(tmp_path / "a.sph", samples[:, 0].astype(kind), order=order)
    assert np.array_equal(load(path) * 32768, samples[:, 0])
    path = sphere(tmp_path / "b.sph", samples.astype(kind), order=order, channels=2)
    assert np.array_equal(load(AudioSource(path, channel=1)) * 32768, samples[:, 1])
    assert duration(AudioSource(path, channel=1)) == 1.0


@pytest.mark.parametrize("coding", ["ulaw", "mu-law", "alaw"])
def test_sphere_of_telephones(tmp_path, coding):
    form = "ULAW" if "u" in coding else "ALAW"
    telephone = Path(write(tmp_path / "a.wav", tone(), form="WAV", subtype=form))
    codes = np.frombuffer(telephone.read_bytes()[-RATE:], dtype=np.uint8)
    assert np.array_equal(load(sphere(tmp_path / "a.sph", codes, coding, "1")), load(str(telephone)))


@pytest.mark.parametrize("coding", ["pcm,embedded-shorten-v2.00", "ulaw,embedded-shorten-v1.09"])
def test_compressed_sphere_is_refused_with_the_remedy(tmp_path, coding):
    path = sphere(tmp_path / "a.wav", np.zeros(RATE, np.int16), coding)
    with pytest.raises(AudioError, match=f"{coding}: uncompress it with sph2pipe"):
        load(path)


@pytest.mark.parametrize("rate", [1000, 8000, 11025, 22050, 44100, 48000, 192000])
def test_other_sampling_rates_are_resampled(tmp_path, rate):
    time = np.arange(rate) / rate
    path = write(tmp_path / "a.wav", (0.4 * np.sin(2 * np.pi * 200 * time)).astype(np.float32), rate, subtype="FLOAT")
    loaded = load(path)
    assert abs(len(loaded) - RATE) <= 1
    expected = 0.4 * np.sin(2 * np.pi * 200 * np.arange(len(loaded)) / RATE)
    assert np.abs(loaded - expected)[1600:-1600].max() < 5e-3
    assert duration(path) == 1.0


def test_a_segment_of_another_sampling_rate_has_the_right_place(tmp_path):
    path = write(tmp_path / "a.wav", tone(3, 44100), 44100)
    part = load(AudioSource(path, 1.0, 2.0))
    assert abs(len(part) - RATE) <= 1
    assert np.abs(part - load(path)[RATE : RATE + len(part)])[200:-200].max() < 1e-3


def test_the_chosen_channel_is_read(tmp_path):
    path = write(tmp_path / "a.wav", tone(channels=3))
    for channel in range(3):
        assert np.abs(load(AudioSource(path, channel=channel)) - tone(channels=3)[:, channel]).max() < 5e-5
    assert len(load(AudioSource(write(tmp_path / "mono.wav", tone()), channel=0))) == RATE


def test_float_samples_a_little_above_one_are_clipped(tmp_path):
    assert np.abs(load(write(tmp_path / "a.wav", tone() * 3, subtype="FLOAT"))).max() == 1.0


def test_a_segment_may_overshoot_the_end_a_little(tmp_path):
    path = write(tmp_path / "a.wav", tone())
    assert duration(AudioSource(path, 0.5, 1.4)) == 0.5
    assert len(load(AudioSource(path, 0.5, 1.4))) == RATE // 2


@pytest.mark.parametrize("library", ["omniio.kaldi", "kaldiio"])
@pytest.mark.parametrize(("settings", "form"), [(None, "wav"), ({}, "wav"), ({}, "flac")])
def test_kaldi_archives(tmp_path, library, settings, form):
    kaldiio = pytest.importorskip(library)
    samples = {"a": (tone()[:, 0] * 32767).astype(np.int16), "b": (tone(0.5)[:, 0] * 20000).astype(np.int16)}
    options = {} if settings is None else {"write_function": "soundfile", "write_kwargs": {"format": form}}
    kaldiio.save_ark(str(tmp_path / "x.ark"), {key: (RATE, value) for key, value in samples.items()},
                     scp=str(tmp_path / "x.scp"), **options)
    for line in (tmp_path / "x.scp").read_text().splitlines():
        key, path = line.split(None, 1)
        assert np.array_equal(np.round(load(path) * 32768), samples[key])
        assert np.array_equal(np.round(load(AudioSource(path, 0.1, 0.2)) * 32768), samples[key][1600:3200])
        assert duration(path) == len(samples[key]) / RATE


def test_headers_written_to_a_pipe_tell_no_length_and_are_read(tmp_path):
    path = Path(write(tmp_path / "a.wav", tone()))
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert duration(str(path)) == 1.0 and len(load(str(path))) == RATE


def test_copies_are_wav_with_the_same_samples(tmp_path):
    path = write(tmp_path / "a.flac", tone(channels=2), 44100, "FLAC", "PCM_24")
    copy_to_wav(path, tmp_path / "b.wav")
    assert soundfile.info(tmp_path / "b.wav").subtype == "PCM_24"
    for ours, theirs in zip(soundfile.read(tmp_path / "b.wav"), soundfile.read(path), strict=True):
        assert np.array_equal(ours, theirs)


def not_finite(path, value):
    samples = tone()
    samples[RATE // 2] = value
    return write(path, samples, subtype="FLOAT")


def cut(path: Path, share: float = 0.5) -> str:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return str(path)


def written_bytes(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def looping_link(path: Path) -> str:
    path.symlink_to(path)
    return str(path)


def fifo(path: Path) -> str:
    os.mkfifo(path)
    return str(path)


def in_archive(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return f"{path}:2"


def riff(length: int) -> bytes:
    return b"RIFF" + length.to_bytes(4, "little")


BAD = {
    "missing": (lambda p: str(p), "there is no such file"),
    "empty": (lambda p: written_bytes(p, b""), "empty file"),
    "no samples": (lambda p: write(p, tone(0)), "no samples"),
    "no samples, float": (lambda p: write(p, tone(0), subtype="FLOAT"), "no samples"),
    "no samples, flac": (lambda p: write(p, tone(0), form="FLAC"), "samples|empty file"),
    "text": (lambda p: written_bytes(p, b"this is no audio at all\n" * 9), "not audio"),
    "noise": (lambda p: written_bytes(p, bytes(range(1, 255)) * 9), "not audio"),
    "header only": (lambda p: cut(Path(write(p, tone())), 0.0013), "not audio|truncated|no samples"),
    "folder": (lambda p: (p.mkdir(), str(p))[1], "not a regular file"),
    "fifo": (fifo, "not a regular file"),
    "device": (lambda p: os.devnull, "not a regular file"),
    "looping link": (looping_link, "cannot be read"),
    "dangling link": (lambda p: (p.symlink_to(p.parent / "nowhere"), str(p))[1], "there is no such file"),
    "NUL in the path": (lambda p: f"{p}\0", "cannot be read"),
    "very long path": (lambda p: f"{p}{'x' * 5000}", "cannot be read"),
    "command": (lambda p: f"touch {p} |", "materialize"),
    "standard input": (lambda p: "-", "materialize"),
    "NaN": (lambda p: not_finite(p, np.nan), "NaN or Inf at sample 8000"),
    "Inf": (lambda p: not_finite(p, -np.inf), "NaN or Inf at sample 8000"),
    "integers as float": (lambda p: write(p, tone() * 32767, subtype="FLOAT"), "32768"),
    "2 channels": (lambda p: write(p, tone(channels=2)), "2 channels.*choose_channel"),
    "8 channels": (lambda p: write(p, tone(channels=8)), "8 channels.*choose_channel"),
    "truncated wav": (lambda p: cut(Path(write(p, tone()))), "truncated"),
    "truncated float wav": (lambda p: cut(Path(write(p, tone(), subtype="FLOAT"))), "truncated"),
    "truncated wavex": (lambda p: cut(Path(write(p, tone(), form="WAVEX"))), "truncated"),
    "truncated flac": (lambda p: cut(Path(write(p, tone(), form="FLAC"))), "truncated"),
    "truncated sph": (lambda p: cut(Path(write(p, tone(), form="NIST"))), "truncated"),
    "truncated ogg": (lambda p: cut(Path(write(p, tone(9), form="OGG", subtype="VORBIS"))), "truncated"),
    "truncated opus": (lambda p: cut(Path(write(p, tone(9), form="OGG", subtype="OPUS"))), "truncated"),
    "truncated mp3": (lambda p: cut(Path(write(p, tone(9), form="MP3", subtype="MPEG_LAYER_III"))), "truncated"),
    "archive without audio": (lambda p: in_archive(p, b"a \0BFM " + b"\0" * 99), "no audio at this offset"),
    "archive with pickle": (lambda p: in_archive(p, b"a PKL\x80\x04."), "no audio at this offset"),
    "truncated archive": (lambda p: in_archive(p, b"a " + riff(32000) + b"WAVE"), "archive is truncated"),
    "stream in an archive": (lambda p: in_archive(p, b"a " + riff(0xFFFFFFFF) + b"WAVE"), "length is unknown"),
    "truncated encoded archive": (lambda p: in_archive(p, b"a AUDIO\x02\xff\xffx"), "archive is truncated"),
    "archive ends": (lambda p: in_archive(p, b"a AUDIO"), "archive is truncated"),
    "offset past the end": (lambda p: in_archive(p, b"a"), "no audio at this offset"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_refused_by_name(tmp_path, kind):
    make, message = BAD[kind]
    path = make(tmp_path / "bad.wav")
    for use in (load, duration):
        with pytest.raises(AudioError, match=message) as raised:
            use(AudioSource(path))
        assert path[:60] in str(raised.value).replace("\\x00", "\0") and len(str(raised.value).splitlines()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_files_are_refused_by_name(tmp_path):
    path = write(tmp_path / "a.wav", tone())
    os.chmod(path, 0)
    with pytest.raises(AudioError, match="Permission denied"):
        load(path)


@pytest.mark.parametrize(("source", "message"), [
    ({"start": 1.0}, "outside the recording"), ({"start": 5.0, "end": 6.0}, "outside the recording"),
    ({"start": 0.5, "end": 1.6}, "outside the recording"), ({"start": -1.0}, "outside the recording"),
    ({"start": float("nan")}, "outside the recording"), ({"start": 0.5, "end": 0.5}, "no sample"),
    ({"start": 0.5, "end": 0.2}, "no sample"), ({"channel": 1}, "channel 1 is chosen"),
    ({"channel": -1}, "channel -1 is chosen")])
def test_bad_segments_and_channels_are_refused(tmp_path, source, message):
    path = write(tmp_path / "a.wav", tone())
    for use in (load, duration):
        with pytest.raises(AudioError, match=message):
            use(AudioSource(path, **source))


def test_corrupt_flac_frames_are_refused(tmp_path):
    path = Path(write(tmp_path / "a.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 8 * RATE), form="FLAC"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    path.write_bytes(data)
    with pytest.raises(AudioError, match=r"a\.flac"):
        load(str(path))


@pytest.mark.parametrize("pattern", ["an4/wav/*/*/*.sph", "LibriSpeech/*/*/*/*.flac"])
def test_real_recordings_load(real_speech, pattern):
    paths = sorted(real_speech.glob(pattern))[:5]
    if not paths:
        pytest.skip(f"no {pattern}")
    for path in paths:
        samples = load(str(path))
        assert len(samples) == round(duration(str(path)) * RATE)
        assert 0.001 < np.sqrt(np.mean(samples**2)) < 0.5
        part = load(AudioSource(str(path), 0.25, 0.75))
        assert np.array_equal(part, samples[4000:12000])


LIMITED = """
import resource, sys
from pathlib import Path
from blspkd.audio.samples import AudioSource, copy_to_wav, duration, load
from blspkd.errors import AudioError
room = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (100 << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
print(duration(sys.argv[1]), len(load(AudioSource(sys.argv[1], 7000.0, 7001.0))))
try:
    load(sys.argv[1], int(sys.argv[2]))
except AudioError as error:
    print(error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="nothing tells how much memory is taken")
@pytest.mark.parametrize("rate", [8000, 16000])
def test_what_does_not_fit_into_memory_is_told(tmp_path, rate):
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for _ in range(12):
            file.write(np.zeros(8000 * 600, np.int16))
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path), str(rate)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured, told = done.stdout.splitlines()
    assert measured == "7200.0 16000"
    assert told.startswith(f"{path}: 2.0 hours do not fit into memory") and "segments" in told


def test_long_float_recordings_are_checked_block_by_block(tmp_path):
    samples = np.full(3 << 20, 0.1, np.float32)
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    assert duration(path) == pytest.approx((3 << 20) / RATE)
    assert np.array_equal(load(path), samples)
    samples[2_500_000] = np.nan
    path = write(tmp_path / "b.wav", samples, subtype="FLOAT")
    for read in (duration, load):
        with pytest.raises(AudioError, match="NaN or Inf at sample 2500000"):
            read(path)


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64", "W64", "AU", "AIFF"])
def test_half_a_file_is_refused_in_every_format_with_a_header(tmp_path, form):
    data = Path(write(tmp_path / "whole", tone(6.0), form=form)).read_bytes()
    (tmp_path / "half").write_bytes(data[: len(data) // 2])
    for read in (duration, load):
        with pytest.raises(AudioError, match="half: the file is truncated"):
            read(str(tmp_path / "half"))


@pytest.mark.parametrize(("count", "rate"), [(1, 44100), (3, 192000)])
def test_what_is_too_short_to_be_resampled_has_no_duration(tmp_path, count, rate):
    path = write(tmp_path / "short.wav", np.ones((count, 1), np.float32) / 3, rate)
    for read in (duration, load):
        with pytest.raises(AudioError, match="too short to be resampled"):
            read(path)

"""Audio that somebody hands over, in any usual form -> the waveform that `samples.load` reads from a file with it.

Files and encoded data pass the checks of `samples`, arrays those of `waveform`. Here is what only handed-over audio
needs: which form it has, which channel is meant, and that it is neither silent nor longer than it may be.
"""

import io
import os
import re
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import soundfile

from blspkd.audio.byte_ranges import ByteRanges
from blspkd.audio.header import check_length
from blspkd.audio.samples import AudioSource, is_command, open_encoded, open_file, read, reason, resampled
from blspkd.audio.waveform import as_array, as_float, is_rate
from blspkd.errors import AudioError

MIN_RATE, MAX_RATE = 1000, 192000  # Hz; a rate below was given in kHz, one above asks for much memory and adds nothing
SILENCE = 2**-24  # samples that differ by less are all the same: half a step of 24 bits
MISSING = "relative paths count from the working directory"
MAX_PATH = 4096  # characters; what is longer is data

_ACCEPTED = ("a path, the bytes of an audio file, a file that is open for reading bytes, (rate, array), "
             "{'array': ..., 'sampling_rate': ...}, or an array, tensor or list of samples together with rate")
_URL = re.compile(r"\s*(data:|[a-z][a-z0-9+.-]+:/)", re.IGNORECASE)
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def read_audio(audio: Any, sampling_rate: int, *, rate: float | None = None, channel: int | None = None,
               name: str = "audio", max_seconds: float | None = None) -> np.ndarray:
    """float32 [samples] in [-1, 1] at `sampling_rate` Hz. Raises AudioError that begins with `name`.

    audio: a local path (no URL); an encoded file as bytes, bytearray, memoryview or binary file object, which is read
           from its beginning; (rate, array) or {"array": ..., "sampling_rate": ...}; an array, tensor or list
           [samples], [samples, channels] or [channels, samples], of floats within -1 and 1, int16, int32 or uint8.
    rate: Hz of an array that comes without; where the audio says its rate itself, both have to be equal.
    channel: counted from 0; only audio with one channel needs none.
    max_seconds: what is longer is refused by its header, before anything is decoded.
    """
    if channel is not None and (isinstance(channel, bool) or not isinstance(channel, int | np.integer)):
        raise AudioError(f"{name}: channel is {_line(channel)}; give a whole number, counted from 0")
    try:
        if isinstance(audio, str | os.PathLike):
            return _from_path(local_path(audio, name), sampling_rate, rate, channel, name, max_seconds)
        if isinstance(audio, bytes | bytearray | memoryview) or hasattr(audio, "read"):
            return _from_bytes(audio, sampling_rate, rate, channel, name, max_seconds)
        samples, own_rate = _parts(audio, rate, name)
        return _from_array(samples, sampling_rate, own_rate, channel, name, max_seconds)
    except MemoryError:
        raise AudioError(f"{name}: does not fit into memory; hand it over in shorter pieces") from None


def _from_path(path: str, sampling_rate: int, rate: float | None, channel: int | None, name: str,
               max_seconds: float | None) -> np.ndarray:
    try:
        with open_file(path, max_seconds, MISSING) as file:
            return _from_file(file, sampling_rate, rate, channel, path)
    except AudioError as error:
        raise AudioError(f"{name}: {error}") from None


def _from_bytes(audio: Any, sampling_rate: int, rate: float | None, channel: int | None, name: str,
                max_seconds: float | None) -> np.ndarray:
    try:
        with open_encoded(_as_file(audio, name), name, max_seconds) as file:
            return _from_file(file, sampling_rate, rate, channel, name)
    except (OSError, ValueError) as error:  # of a file object: closed, not open for reading
        raise AudioError(f"{name}: cannot be read: {reason(error)}") from None


def _from_file(file: soundfile.SoundFile, sampling_rate: int, rate: float | None, channel: int | None, name: str
               ) -> np.ndarray:
    check_rate(file.samplerate, rate, name)
    source = AudioSource(name, channel=chosen_channel(channel, file.channels, name))
    return _heard(read(file, source), file.samplerate, sampling_rate, name)


def _from_array(samples: Any, sampling_rate: int, rate: float | None, channel: int | None, name: str,
                max_seconds: float | None) -> np.ndarray:
    array = as_array(samples)
    if array is None:
        raise AudioError(f"{name}: is not audio but {type(samples).__name__}; give {_ACCEPTED}")
    values = _one_channel(array, channel, name)
    if rate is None:
        raise AudioError(f"{name}: an array does not say its sampling rate; give rate (Hz)")
    check_rate(rate, None, name)
    check_length(len(values), rate, max_seconds, name)
    return _heard(as_float(values, name), float(rate), sampling_rate, name)


def _heard(values: np.ndarray, rate: float, sampling_rate: int, name: str) -> np.ndarray:
    """`values`, float32 [samples] at `rate` Hz, as `read_audio` returns them, unless there is nothing to be heard."""
    if np.ptp(values) < SILENCE:
        raise AudioError(f"{name}: is silent, every one of its {len(values)} samples is {values[0]:.4g}; record it "
                         "again, or choose another channel if there are several")
    return np.clip(resampled(values, rate, sampling_rate, name), -1.0, 1.0)


def _parts(audio: Any, rate: float | None, name: str) -> tuple[Any, float | None]:
    """Samples and their rate."""
    if isinstance(audio, Mapping):
        if not {"array", "sampling_rate"} <= audio.keys():
            raise AudioError(f"{name}: a dictionary has to have the keys 'array' and 'sampling_rate', and this one has "
                             f"{_line(list(audio))}")
        own_rate, samples = audio["sampling_rate"], audio["array"]
    elif isinstance(audio, tuple):
        if len(audio) != 2 or is_rate(audio[1]):
            raise AudioError(f"{name}: a tuple has to be (rate, array), the rate first")
        own_rate, samples = audio
    else:
        return audio, rate
    check_rate(own_rate, rate, name)
    return samples, own_rate


def check_rate(rate: float, said: float | None, name: str) -> None:
    """rate: of the audio; said: what the caller says besides."""
    for value in (rate,) if said is None else (rate, said):
        if not is_rate(value) or not MIN_RATE <= value <= MAX_RATE:
            raise AudioError(f"{name}: the sampling rate is {_line(value)}; give a number of samples per second (Hz), "
                             f"from {MIN_RATE} to {MAX_RATE}")
    if said is not None and said != rate:
        raise AudioError(f"{name}: has a sampling rate of {rate} Hz, and rate says {said}; leave rate out")


def chosen_channel(channel: int | None, count: int, name: str) -> int:
    """The channel to read of audio with `count` channels."""
    if channel is None and count > 1:
        raise AudioError(f"{name}: has {count} channels; choose one by channel (counted from 0), e.g. channel=0")
    if channel is not None and not 0 <= channel < count:
        raise AudioError(f"{name}: channel {channel} is chosen, and there are {count}, counted from 0")
    return int(channel or 0)


def _one_channel(array: np.ndarray, channel: int | None, name: str) -> np.ndarray:
    """[samples] of the chosen channel. There are more samples than channels: that tells which axis is which."""
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[0] == array.shape[1] > 1):
        raise AudioError(f"{name}: has the shape {array.shape}; give [samples], [samples, channels] or "
                         "[channels, samples], with more samples than channels")
    if not array.size:
        return array.reshape(-1)
    channels = array[None] if array.ndim == 1 else array if array.shape[0] < array.shape[1] else array.T
    return channels[chosen_channel(channel, len(channels), name)]


def local_path(audio: str | os.PathLike, name: str) -> str:
    """`audio` as a path; raises AudioError for URLs, commands and data."""
    path = os.fsdecode(audio)
    if _URL.match(path):
        raise AudioError(f"{name}: {_line(path)} is a URL, and nothing is fetched; download it first, and give the "
                         "path or the bytes of the file")
    if is_command(path):
        raise AudioError(f"{name}: {_line(path)} is a command or standard input; give an audio file")
    if not path or len(path) > MAX_PATH:
        raise AudioError(f"{name}: {_line(path)} is not a path; encoded audio is handed over as bytes, base64 decoded")
    return path


def _as_file(audio: Any, name: str) -> ByteRanges:
    """Encoded audio as a file whose position is at the beginning.

    A file object is not used itself, but read through `ByteRanges`: its `fileno` may be that of other bytes (gzip).
    """
    file = audio if hasattr(audio, "read") else io.BytesIO(bytes(audio))
    if not isinstance(file.read(0), bytes):
        raise AudioError(f"{name}: is a file of text; open it for reading bytes ('rb')")
    try:
        file.seek(0, io.SEEK_END)
    except (OSError, AttributeError):  # a pipe
        file = io.BytesIO(file.read())
        file.seek(0, io.SEEK_END)
    size = file.tell()
    if not size:
        raise AudioError(f"{name}: is empty; get it again or leave it out")
    return ByteRanges(file, (0, size))


def _line(value: Any) -> str:
    """`value` in a few words on one line."""
    return " ".join(_SHORT.repr(value).split())

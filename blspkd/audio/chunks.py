"""A recording of any length in pieces that a model can listen to, cut where it is most quiet."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from blspkd.audio.handed import MISSING, chosen_channel, local_path, read_audio
from blspkd.audio.samples import AudioSource, load, open_file
from blspkd.errors import AudioError

EARLIEST = 0.6  # of a chunk: a cut lies behind this share of it
QUIET = 0.05  # seconds over which loudness is taken
SHORTEST = 1.0  # seconds of a chunk


def chunks(audio: Any, sampling_rate: int, seconds: float, *, rate: float | None = None, channel: int | None = None
           ) -> Iterator[np.ndarray]:
    """Pieces float32 [samples] of at most `seconds` that add up to the recording; a file is read piece by piece.

    audio, rate, channel: as `read_audio` takes them. Raises AudioError. A file may be silent in part or all of it.
    """
    if seconds < SHORTEST:
        raise AudioError(f"chunk: {seconds} s is below {SHORTEST:g} s")
    if not isinstance(audio, str | os.PathLike):
        yield from _cut(read_audio(audio, sampling_rate, rate=rate, channel=channel), sampling_rate, seconds)
        return
    path = local_path(audio, "audio")
    with open_file(path, missing=MISSING) as file:
        start, end = 0.0, file.frames / file.samplerate
        channel = chosen_channel(channel, file.channels, path)
    while start < end:
        stop = min(start + seconds, end)
        waveform = load(AudioSource(path, start, stop, channel), sampling_rate)
        if stop < end:
            waveform = waveform[:_quietest(waveform, sampling_rate)]
        yield waveform
        start = end if stop == end else start + len(waveform) / sampling_rate


def _cut(waveform: np.ndarray, rate: int, seconds: float) -> Iterator[np.ndarray]:
    size = int(seconds * rate)
    while len(waveform) > size:
        place = _quietest(waveform[:size], rate)
        yield waveform[:place]
        waveform = waveform[place:]
    yield waveform


def _quietest(waveform: np.ndarray, rate: int) -> int:
    """The sample in the middle of the most quiet stretch of the last part."""
    first, size = int(EARLIEST * len(waveform)), int(QUIET * rate)
    power = np.convolve(waveform[first:].astype(np.float64) ** 2, np.ones(size), mode="valid")
    return first + int(power.argmin()) + size // 2

"""A recording of any length in pieces that a model can listen to, cut where it is most quiet."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from blspkd.audio.handed import MISSING, check_rate, chosen_channel, local_path, read_audio
from blspkd.audio.samples import AudioSource, load, open_file
from blspkd.errors import AudioError

EARLIEST = 0.6  # of a chunk: a cut lies behind this share of it
QUIET = 0.05  # seconds over which loudness is taken
SHORTEST = 1.0  # seconds of a chunk, the last one too: a scrap of speech is answered by an invention


def chunks(audio: Any, sampling_rate: int, seconds: float, *, rate: float | None = None, channel: int | None = None
           ) -> Iterator[np.ndarray]:
    """Pieces float32 [samples] of at most `seconds` that add up to the recording; a file is read piece by piece.

    audio, rate, channel: as `read_audio` takes them. Raises AudioError. A file may be silent in part or all of it.
    """
    if not isinstance(seconds, int | float) or not SHORTEST <= seconds < float("inf"):
        raise AudioError(f"chunk: {seconds!r} is not a number of seconds from {SHORTEST:g} on")
    if not isinstance(audio, str | os.PathLike):
        yield from _cut(read_audio(audio, sampling_rate, rate=rate, channel=channel), sampling_rate, seconds)
        return
    path = local_path(audio, "audio")
    with open_file(path, missing=MISSING) as file:
        check_rate(file.samplerate, rate, path)
        start, end = 0.0, file.frames / file.samplerate
        channel = chosen_channel(channel, file.channels, path)
    while start < end:
        stop = min(start + seconds, end)
        waveform = load(AudioSource(path, start, stop, channel), sampling_rate)
        if stop < end:
            waveform = waveform[:_quietest(waveform, sampling_rate, end - stop)]
        yield waveform
        start = end if stop == end else start + len(waveform) / sampling_rate


def _cut(waveform: np.ndarray, rate: int, seconds: float) -> Iterator[np.ndarray]:
    size = int(seconds * rate)
    while len(waveform) > size:
        place = _quietest(waveform[:size], rate, (len(waveform) - size) / rate)
        yield waveform[:place]
        waveform = waveform[place:]
    yield waveform


def _quietest(waveform: np.ndarray, rate: int, behind: float) -> int:
    """The sample in the middle of the most quiet stretch of the last part.

    behind: seconds of the recording that follow; if they are few, the cut leaves them company.
    """
    first, size = int(EARLIEST * len(waveform)), int(QUIET * rate)
    last = max(first + size, len(waveform) - max(0, round((SHORTEST - behind) * rate)))
    power = np.convolve(waveform[first:last].astype(np.float64) ** 2, np.ones(size), mode="valid")
    return first + int(power.argmin()) + size // 2

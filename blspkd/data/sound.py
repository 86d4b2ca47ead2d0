"""What a filter asks about a recording: how long, how loud, how clipped and how noisy it is."""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blspkd.audio.samples import AudioSource, duration, load
from blspkd.errors import AudioError
from blspkd.kaldi.recordings import map_tasks
from blspkd.progress import progress_bar

FULL_SCALE = 0.98  # samples at least this large count as clipped (A-law and mu-law end below 1)
FRAME = 400  # samples, 25 ms
_RATE = 16000
_FLOOR = 1e-10  # power of a frame of digital silence, -100 dB
_TASK_UTTERANCES = 32  # in one task of a process
_UTTERANCES_PER_PROCESS = 200  # starting a process takes as long as decoding about as many


class Sound(NamedTuple):
    """One utterance."""

    seconds: float
    level: float = 0.0  # dB below full scale, of the loudest frame
    clipped: float = 0.0  # share of samples at full scale
    snr: float = 0.0  # dB


def measure(source: AudioSource, max_seconds: float = float("inf")) -> Sound:
    """What is longer than `max_seconds` is not decoded. Raises AudioError."""
    seconds = duration(source)
    if seconds > max_seconds:
        return Sound(seconds)
    samples = load(source, _RATE)
    power = np.square(np.pad(samples, (0, -len(samples) % FRAME)).reshape(-1, FRAME)).mean(axis=1)  # [frames]
    level = 10 * np.log10(max(float(power.max()), _FLOOR ** 2))
    return Sound(seconds, level, float((np.abs(samples) >= FULL_SCALE).mean()), snr_db(samples))


def snr_db(samples: np.ndarray) -> float:
    """Signal-to-noise ratio: the 90th percentile of the power of frames over the 10th, in dB.

    samples: [n] at 16 kHz; frames are 25 ms. The tenth of the frames that is softest is taken for noise alone, so that
    speech without a pause seems noisier than it is, and speech at 0 dB reads as a few dB. Of less than two whole
    frames nothing is known: infinity.
    """
    frames = samples[:len(samples) // FRAME * FRAME].reshape(-1, FRAME)  # the last part of a frame would seem soft
    if len(frames) < 2:
        return float("inf")
    low, high = np.percentile(np.maximum(np.square(frames).mean(axis=1), _FLOOR), [10, 90])
    return float(10 * np.log10(high / low))


def measure_all(path: Path, sources: Mapping[str, AudioSource], max_seconds: float, num_jobs: int
                ) -> Iterator[tuple[str, Sound | str]]:
    """(utt-id, its sound or why it cannot be decoded) in the order of `sources`, utterances of directory `path`."""
    items = iter(sources.items())
    tasks = iter(lambda: list(islice(items, _TASK_UTTERANCES)), [])
    bar = progress_bar(f"filter {path}", total=len(sources), unit="utt")
    try:
        for results in map_tasks(partial(_measure_task, max_seconds), tasks,
                                 min(num_jobs, len(sources) // _UTTERANCES_PER_PROCESS), path):
            yield from results
            bar.update(len(results))
    finally:
        bar.close()


def _measure_task(max_seconds: float, task: list[tuple[str, AudioSource]]) -> list[tuple[str, Sound | str]]:
    results: list[tuple[str, Sound | str]] = []
    for utt_id, source in task:
        try:
            results.append((utt_id, measure(source, max_seconds)))
        except AudioError as error:
            results.append((utt_id, " ".join(str(error).split())))
    return results

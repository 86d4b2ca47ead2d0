"""Samples that somebody hands over as an array -> the waveform that `audio.load` reads from a file with them."""

import sys
from numbers import Real
from typing import Any

import numpy as np

from blspkd.audio.samples import MAX_PEAK, resampled
from blspkd.errors import AudioError

# What integers stand for: (silence, full scale), as in audio files.
_INTEGERS = {"int16": (0, 2**15), "int32": (0, 2**31), "uint8": (2**7, 2**7)}


def as_waveform(samples: Any, sampling_rate: float, target_rate: int, name: str) -> np.ndarray:
    """float32 [samples] in [-1, 1] at `target_rate` Hz.

    samples: array, tensor or list [samples], [1, samples] or [samples, 1] at `sampling_rate` Hz: floats (within -1 and
             1; a little above is clipped), int16, int32 or uint8.
    Raises AudioError, which begins with `name`, for anything else, and for NaN and Inf.
    """
    if not is_rate(sampling_rate):
        raise AudioError(f"{name}: sampling_rate is {sampling_rate!r}; give the waveform's samples per second")
    array = as_array(samples)
    if array is None:
        raise AudioError(f"{name}: is not samples but {type(samples).__name__}; give an array of them, read files with "
                         "blspkd.audio.samples.load, and give their rate as sampling_rate")
    values = as_float(_one_channel(array, name), name)
    return np.clip(resampled(values, sampling_rate, target_rate, name), -1.0, 1.0, dtype=np.float32)


def is_rate(value: Any) -> bool:
    """Whether `value` can be a number of samples per second."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < value < float("inf")


def as_array(samples: Any) -> np.ndarray | None:
    """`samples` as an array of numbers, of whatever type and shape; None where they are something else."""
    torch = sys.modules.get("torch")  # who hands over a tensor has imported it
    try:
        if torch is not None and isinstance(samples, torch.Tensor):
            tensor = samples.detach().cpu()
            return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        array = np.asarray(samples)
    except (ValueError, TypeError, RuntimeError):  # rows of several lengths, a tensor that holds no values
        return None
    return array if array.dtype.kind in "fiubc" else None


def as_float(values: np.ndarray, name: str) -> np.ndarray:
    """float32 [samples]: `values` [samples] with integers scaled, after checking that they are samples."""
    values = _scaled(values, name)
    if not len(values):
        raise AudioError(f"{name}: holds no samples; leave it out")
    finite = np.isfinite(values)
    if not finite.all():
        raise AudioError(f"{name}: NaN or Inf at sample {int(np.flatnonzero(~finite)[0])}; mend the array")
    peak = float(np.abs(values).max())
    if peak > MAX_PEAK:
        raise AudioError(f"{name}: samples reach {peak:.4g}, float audio has to be within -1 and 1; scale it (16 bit "
                         "integers turned into float: divide by 32768)")
    return values


def _one_channel(array: np.ndarray, name: str) -> np.ndarray:
    """[samples]"""
    if array.ndim == 2 and 1 in array.shape:
        return array.reshape(-1)
    if array.ndim == 1:
        return array
    remedy = ("these are several channels: choose one, e.g. waveform[0] or waveform[:, 0]" if array.ndim == 2 else
              "give a list of waveforms, each of shape [samples]")
    raise AudioError(f"{name}: has the shape {array.shape}; {remedy}")


def _scaled(values: np.ndarray, name: str) -> np.ndarray:
    """Contiguous float32, integers in [-1, 1]."""
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # Inf is told by its place
            return np.ascontiguousarray(values, dtype=np.float32)
    if values.dtype.name not in _INTEGERS:
        raise AudioError(f"{name}: samples of type {values.dtype}; give float32, or int16, int32 or uint8 as audio "
                         "files have them")
    silence, full_scale = _INTEGERS[values.dtype.name]
    return ((values.astype(np.float64) - silence) / full_scale).astype(np.float32)

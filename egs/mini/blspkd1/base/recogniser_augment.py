"""Batches of log-mel features, varied: other tempo, vocal tract, channel, noise; holes in time and frequency.

Everything is done on the features, so it costs next to nothing and is new in every epoch. What other voices, channels
and noise are is shared with stage 3 (blspkd/data/log_mel.py); strengths and tempo are this training's.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from recogniser_options import RecogniserOptions
from speech_set import SpeechSet
from torch import Tensor
from torch.nn import functional

from blspkd.data.log_mel import (
    PER_LOG10,
    TERMS,
    add_power,
    coloured_noise,
    cut_off,
    resample,
    silence,
    smooth_curve,
    warped_bins,
)

ENCODER_STRIDE = 2
INAUDIBLE = -10.0  # the feature of noise that is not there


@dataclass(frozen=True)
class SpeechBatch:
    """features [B, F, M], zero behind `lengths` [B]; words [B, T]: class of each encoder frame, -100 on padding.

    frames_per_second [B]: encoder frames per second of the original recording, whose tempo was changed.
    """

    features: Tensor
    lengths: Tensor
    words: Tensor
    frames_per_second: Tensor


def make_batch(speech: SpeechSet, rows: np.ndarray, options: RecogniserOptions, max_frames: int, strength: float,
               generator: torch.Generator) -> SpeechBatch:
    """The utterances `rows` [B], each varied in its own way, from not at all (strength 0) to as `options` say (1)."""
    size, bins = len(rows), speech.frames.shape[1]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    # Tempo and vocal tract: resample the time-frequency plane.
    original = torch.from_numpy(speech.lengths[rows])
    tempo = torch.exp(uniform(-1, 1, size) * math.log(1 + strength * options.max_stretch))
    lengths = (original * tempo).long().clamp(min=2 * ENCODER_STRIDE, max=max_frames)
    plane = torch.zeros(size, int(original.max()), bins)
    for place, row in enumerate(rows):
        piece = speech.frames[speech.starts[row]:speech.starts[row + 1]]
        plane[place, : len(piece)] = torch.from_numpy(piece)
        plane[place, len(piece):] = plane[place, len(piece) - 1]
    # Lengths in steps of 16: every new shape costs the CPU back end time and memory.
    position = torch.arange(min(-(-int(lengths.max()) // 16) * 16, max_frames))
    time = (position + 0.5) * (original / lengths)[:, None] - 0.5  # [B, F] where in the original
    warp = torch.exp(uniform(-1, 1, size) * math.log(1 + strength * options.max_warp))
    features = resample(plane, time, warped_bins(warp, bins))

    # Channel: a smooth curve over frequency and a gain; noise with a smooth spectrum.
    peak = features.amax(dim=(1, 2), keepdim=True)
    tilt = smooth_curve(torch.randn(size, TERMS, generator=generator), bins)
    features = features + PER_LOG10 * strength * options.max_tilt * tilt
    noise = coloured_noise(peak, uniform(1.5, 4.5, size, 1, 1), torch.randn(size, TERMS, generator=generator),
                           torch.randn(features.shape, generator=generator))
    absent = torch.rand(size, 1, 1, generator=generator) > strength * options.noise_share
    features = cut_off(add_power(features, noise.masked_fill(absent, INAUDIBLE)))

    features = mask(features, lengths, strength, generator, options.max_mask_bins)
    features = features.masked_fill((position >= lengths[:, None])[..., None], 0.0)
    words = label_encoder_frames(speech, rows, time, lengths)
    frames_per_second = 1000 / options.hop_ms / ENCODER_STRIDE * lengths / original
    return SpeechBatch(features, lengths, words, frames_per_second)


def mask(features: Tensor, lengths: Tensor, strength: float, generator: torch.Generator, max_bins: int,
         max_frames: int = 8) -> Tensor:
    """SpecAugment (arXiv 1904.08779): two bands and two stretches become the utterance's mean."""
    size, frames, bins = features.shape
    hole = torch.zeros(size, frames, bins, dtype=torch.bool)
    for _ in range(2):
        width = torch.rand(size, 1, generator=generator) * strength * max_bins * bins / 80
        start = torch.rand(size, 1, generator=generator) * (bins - width)
        index = torch.arange(bins)
        hole |= ((index >= start) & (index < start + width))[:, None, :]
        width = torch.rand(size, 1, generator=generator) * strength * max_frames
        start = torch.rand(size, 1, generator=generator) * (lengths[:, None] - width)
        index = torch.arange(frames)
        hole |= ((index >= start) & (index < start + width))[:, :, None]
    return torch.where(hole, features.mean(dim=(1, 2), keepdim=True), features)


def label_encoder_frames(speech: SpeechSet, rows: np.ndarray, time: Tensor, lengths: Tensor) -> Tensor:
    """The word class of each encoder frame [B, T]; `time` [B, F] tells where in the original each feature frame is."""
    starts, original = torch.from_numpy(speech.starts[rows]), torch.from_numpy(speech.lengths[rows])
    place = time[:, ::ENCODER_STRIDE].round().long().clamp(min=0)
    place = torch.minimum(place, original[:, None] - 1)
    words = torch.from_numpy(speech.words[(starts[:, None] + place).numpy()].astype(np.int64))
    position = torch.arange(words.shape[1]) * ENCODER_STRIDE
    return words.masked_fill(position >= lengths[:, None], -100)


def pad_to_chunk(features: Tensor, lengths: Tensor, max_frames: int) -> Tensor:
    """What the padded regime sees: [B, max_frames, M], digital silence behind the end."""
    padded = functional.pad(features, (0, 0, 0, max_frames - features.shape[1]))  # negative where that is shorter
    real = (torch.arange(max_frames) < lengths[:, None])[..., None]
    return torch.where(real, padded, silence(features))

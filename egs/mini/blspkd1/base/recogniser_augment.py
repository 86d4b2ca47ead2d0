"""Batches of log-mel features, varied: other tempo, vocal tract, channel, noise; holes in time and frequency.

Everything is done on the features, so it costs next to nothing and is new in every epoch. A feature of Whisper's
extractor is f = (log10 p + 4) / 4 with power p, cut off 2 below the utterance's maximum.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from recogniser_options import RecogniserOptions
from speech_set import SpeechSet
from torch import Tensor
from torch.nn import functional

PER_LOG10 = 0.25  # features per log10 of power
LOWEST = -1.5  # the feature of digital silence: (log10 1e-10 + 4) / 4
RANGE = 2.0  # features lie at most this far below the utterance's maximum
ENCODER_STRIDE = 2


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
    frequency = torch.arange(bins) * warp[:, None]  # [B, M]
    features = resample(plane, time, frequency.clamp(max=bins - 1))

    # Channel: a smooth curve over frequency and a gain; noise with a smooth spectrum.
    peak = features.amax(dim=(1, 2), keepdim=True)
    features = features + PER_LOG10 * strength * options.max_tilt * smooth_curve(size, bins, generator)
    noise = peak - PER_LOG10 * uniform(1.5, 4.5, size, 1, 1) + PER_LOG10 * 0.3 * smooth_curve(size, bins, generator)
    noise = noise + PER_LOG10 * 0.25 * torch.randn(features.shape, generator=generator)
    noise = noise.masked_fill(torch.rand(size, 1, 1, generator=generator) > strength * options.noise_share, -10.0)
    features = add_power(features, noise)
    features = torch.maximum(features, features.amax(dim=(1, 2), keepdim=True) - RANGE).clamp(min=LOWEST)

    features = mask(features, lengths, strength, generator, options.max_mask_bins)
    features = features.masked_fill((position >= lengths[:, None])[..., None], 0.0)
    words = label_encoder_frames(speech, rows, time, lengths)
    frames_per_second = 1000 / options.hop_ms / ENCODER_STRIDE * lengths / original
    return SpeechBatch(features, lengths, words, frames_per_second)


def resample(plane: Tensor, time: Tensor, frequency: Tensor) -> Tensor:
    """plane [B, F, M] read (bilinearly) at time [B, F'] and frequency [B, M] -> [B, F', M]."""
    last_frame, last_bin = plane.shape[1] - 1, plane.shape[2] - 1
    x = (2 * frequency / last_bin - 1)[:, None, :].expand(-1, time.shape[1], -1)
    y = (2 * time / last_frame - 1)[:, :, None].expand(-1, -1, frequency.shape[1])
    grid = torch.stack([x, y], dim=-1)
    return functional.grid_sample(plane[:, None], grid, padding_mode="border", align_corners=True)[:, 0]


def smooth_curve(size: int, bins: int, generator: torch.Generator, terms: int = 5) -> Tensor:
    """Random curves [size, 1, bins] of a few cosines; the constant term, a gain, is twice as strong as the others."""
    basis = torch.cos(math.pi * torch.arange(terms)[:, None] * (torch.arange(bins) + 0.5) / bins)
    weights = torch.randn(size, terms, generator=generator)
    weights[:, 0] *= 2
    return (weights @ basis)[:, None]


def add_power(first: Tensor, second: Tensor) -> Tensor:
    """The feature of the sum of two powers, given their features."""
    scale = math.log(10) / PER_LOG10
    return torch.logaddexp(first * scale, second * scale) / scale


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
    silence = (features.amax(dim=(1, 2), keepdim=True) - RANGE).clamp(min=LOWEST)
    return torch.where(real, padded, silence)

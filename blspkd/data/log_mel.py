"""Other voices, channels and noise on Whisper's log-mel features, where they cost next to nothing.

A feature is f = (log10 p + 4) / 4 with power p, cut off 2 below the utterance's maximum. Nothing is drawn here: whoever
augments draws in an order of its own (features.Augmenter by utterance, recipes' recognisers by batch).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

PER_LOG10 = 0.25  # features per log10 of power
PER_DB = PER_LOG10 / 10
LOWEST = -1.5  # the feature of digital silence: (log10 1e-10 + 4) / 4
RANGE = 2.0  # features lie at most this far below the utterance's maximum
TERMS = 5  # cosines of a smooth curve
NOISE_COLOUR, NOISE_GRAIN = 0.3, 0.25  # standard deviations of log10 power: over frequency (each term), of every point


def resample(plane: Tensor, time: Tensor, frequency: Tensor) -> Tensor:
    """plane [B, F, M] read (bilinearly) at time [B, F'] and frequency [B, M] -> [B, F', M]."""
    last_frame, last_bin = max(1, plane.shape[1] - 1), max(1, plane.shape[2] - 1)  # a single one is at place 0
    x = (2 * frequency / last_bin - 1)[:, None, :].expand(-1, time.shape[1], -1)
    y = (2 * time / last_frame - 1)[:, :, None].expand(-1, -1, frequency.shape[1])
    grid = torch.stack([x, y], dim=-1)
    return functional.grid_sample(plane[:, None], grid, padding_mode="border", align_corners=True)[:, 0]


def warped_bins(warp: Tensor, bins: int) -> Tensor:
    """Where another vocal tract has each bin: bin m at warp * m, at most the last one; warp [B] -> [B, bins]."""
    return (torch.arange(bins) * warp[:, None]).clamp(max=bins - 1)


def smooth_curve(weights: Tensor, bins: int) -> Tensor:
    """Curves [B, 1, bins] of a few cosines; the constant term, a gain, counts twice as much; weights [B, TERMS]."""
    basis = torch.cos(math.pi * torch.arange(weights.shape[1])[:, None] * (torch.arange(bins) + 0.5) / bins)
    weights = weights.clone()
    weights[:, 0] *= 2
    return (weights @ basis)[:, None]


def coloured_noise(peak: Tensor, below: Tensor, colour: Tensor, grain: Tensor) -> Tensor:
    """Features [B, F, M] of noise with a smooth spectrum.

    peak [B, 1, 1]: the utterances' loudest features; below [B, 1, 1]: log10 of power between them and the noise;
    colour [B, TERMS] and grain [B, F, M]: standard normal, over frequency and of every point.
    """
    noise = peak - PER_LOG10 * below + PER_LOG10 * NOISE_COLOUR * smooth_curve(colour, grain.shape[2])
    return noise + PER_LOG10 * NOISE_GRAIN * grain


def add_power(first: Tensor, second: Tensor) -> Tensor:
    """The feature of the sum of two powers, given their features."""
    scale = math.log(10) / PER_LOG10
    return torch.logaddexp(first * scale, second * scale) / scale


def cut_off(features: Tensor) -> Tensor:
    """Features [B, F, M] as Whisper's extractor limits them."""
    return torch.maximum(features, silence(features))


def silence(features: Tensor) -> Tensor:
    """What silence behind an utterance's end looks like [B, 1, 1], given its features [B, F, M]."""
    return (features.amax(dim=(1, 2), keepdim=True) - RANGE).clamp(min=LOWEST)

"""Waveform -> what the speech encoder reads, by the encoder's own Hugging Face feature extractor.

Whisper-type encoders read log-mel frames, wav2vec 2.0-type encoders the waveform itself. Audio longer than the
encoder's window (Whisper: 30 s) is cut into windows that are encoded one by one and joined again behind the encoder.
Augmentation lives here too; it is drawn from a generator that the caller seeds per utterance and epoch.
"""

from dataclasses import dataclass

import numpy as np
import soxr
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor

from blspkd.config import ON_LOG_MEL, DataConfig
from blspkd.data import log_mel
from blspkd.data.pretrained import load_pretrained
from blspkd.data.prompts import check_model_path
from blspkd.errors import AudioError, ConfigError, ModelError

MEL_BLOCK = 64  # frames


@dataclass
class Features:
    """One utterance, one entry per window."""

    windows: list[Tensor]  # each [F, M] log-mel frames, or [S] samples
    lengths: list[int]  # real frames (samples) of each window; the rest is padding to the encoder's fixed window


class FeatureExtractor:
    """Features for the encoder `name`; with `pad_to_30s` each window is padded as Hugging Face does."""

    def __init__(self, name: str, pad_to_30s: bool):
        check_model_path(name, "speech encoder")
        try:
            self.extractor = load_pretrained(AutoFeatureExtractor, name)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(f"{name}: its feature extractor cannot be loaded ({reason})") from None
        self.sampling_rate: int = self.extractor.sampling_rate
        self.is_mel = hasattr(self.extractor, "hop_length")
        self.pad = pad_to_30s and self.is_mel
        self.shortest: int = self.extractor.hop_length if self.is_mel else 400  # samples of one frame
        self.window_samples: int = self.extractor.n_samples if self.is_mel else 30 * self.sampling_rate

    @property
    def frames_per_second(self) -> float:
        """Feature frames (or samples) per second."""
        return self.sampling_rate / self.extractor.hop_length if self.is_mel else float(self.sampling_rate)

    def __call__(self, waveform: np.ndarray) -> Features:
        """waveform: float32 [samples] at `sampling_rate`. Raises AudioError where too little is left for one frame."""
        starts = range(0, max(1, len(waveform)), self.window_samples)
        pieces = [waveform[start:start + self.window_samples] for start in starts]
        if len(pieces) > 1 and len(pieces[-1]) < self.shortest:
            pieces.pop()
        if len(pieces[0]) < self.shortest:
            raise AudioError(f"only {len(pieces[0])} samples: too short for one feature frame")
        return Features(*map(list, zip(*map(self._window, pieces), strict=True)))

    def _window(self, samples: np.ndarray) -> tuple[Tensor, int]:
        if not self.is_mel:
            values = self.extractor(samples, sampling_rate=self.sampling_rate, return_tensors="pt")["input_values"][0]
            return values, len(values)
        if self.pad:
            return self._padded_mel(samples), len(samples) // self.extractor.hop_length
        if len(samples) < self.extractor.n_fft:
            samples = np.pad(samples, (0, self.extractor.n_fft - len(samples)))  # the STFT needs one whole window
        mel = self._mel(samples)
        return mel, min(len(mel), len(samples) // self.extractor.hop_length)

    def _padded_mel(self, samples: np.ndarray) -> Tensor:
        """What Hugging Face's extractor gives for `samples` and silence up to the window: [F, M], F the window's.

        Frames of nothing but silence are all alike, so one is computed and copied: short utterances cost what they are
        long. The frames that are computed come in whole blocks, for a matrix product may round its last, partial block
        in another way.
        """
        block = MEL_BLOCK * self.extractor.hop_length
        enough = -(-(len(samples) + self.extractor.n_fft + self.extractor.hop_length) // block) * block
        size = self.window_samples if getattr(self.extractor, "dither", 0.0) else min(enough, self.window_samples)
        mel = self._mel(np.pad(samples, (0, size - len(samples))))
        silent = mel[-1:].expand(self.window_samples // self.extractor.hop_length - len(mel), -1)
        return torch.cat([mel, silent])

    def _mel(self, samples: np.ndarray) -> Tensor:
        """[F, M], by the encoder's own extractor."""
        mel = self.extractor(samples, sampling_rate=self.sampling_rate, return_tensors="pt", padding="longest",
                             truncation=False)
        return mel["input_features"][0].transpose(0, 1)


class Augmenter:
    """Speed, noise, other voices and channels, SpecAugment (arXiv 1904.08779), each off unless `DataConfig` says so."""

    def __init__(self, config: DataConfig, frames_per_second: float, is_mel: bool = True):
        """is_mel: the encoder reads log-mel frames. Raises ConfigError for what needs them where it does not."""
        asked = [name for name in ON_LOG_MEL if getattr(config, name)]
        if asked and not is_mel:
            raise ConfigError(f"data: {asked[0]}: changes log-mel features, and this speech encoder reads samples; set "
                              "it to 0")
        self.config, self.varies = config, bool(asked)
        self.frames_per_second = frames_per_second
        self.mask_frames = max(1, round(config.time_mask_seconds * frames_per_second))

    def waveform(self, waveform: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Speed perturbation by resampling (tempo and pitch), then white noise at a random SNR."""
        if self.config.speed_factors:
            factor = float(generator.choice(self.config.speed_factors))
            if factor != 1.0:
                waveform = soxr.resample(waveform, factor, 1)  # [round(samples / factor)]
        if self.config.noise_snr_db:
            low, high = self.config.noise_snr_db
            power = float(np.mean(waveform**2)) / 10 ** (generator.uniform(low, high) / 10)
            waveform = waveform + generator.standard_normal(len(waveform), dtype=np.float32) * np.sqrt(power)
        return waveform.astype(np.float32)

    def features(self, features: Features, generator: np.random.Generator) -> Features:
        """Another voice and channel, then stretches of time and bands of frequency masked by the window's mean."""
        if self.varies:
            self._vary(features, generator)
        for window, length in zip(features.windows, features.lengths, strict=True):
            if window.dim() != 2:
                continue  # raw samples: nothing to mask
            fill = window[:length].mean()
            for _ in range(self.config.time_masks):
                width = int(generator.integers(0, self.mask_frames + 1))
                start = int(generator.integers(0, max(1, length - width)))
                window[start:start + width] = fill
            for _ in range(self.config.frequency_masks):
                bins = window.shape[1]
                width = int(generator.integers(0, int(bins * self.config.frequency_mask_ratio) + 1))
                start = int(generator.integers(0, max(1, bins - width)))
                window[:, start:start + width] = fill
        return features

    def mask(self, features: Features, stretches: np.ndarray) -> Features:
        """Put the window's mean in the place of all frames (or samples) t with start <= t < end.

        stretches: [n, 2] seconds from the utterance's begin.
        """
        before = 0
        for window, length in zip(features.windows, features.lengths, strict=True):
            fill = window[:length].mean()
            for start, end in np.ceil(stretches * self.frames_per_second - 1e-6).astype(int) - before:
                window[max(0, start):max(0, end)] = fill
            before += length
        return features

    def _vary(self, features: Features, generator: np.random.Generator) -> None:
        """Vocal tract, equaliser and coloured noise: one draw for all windows of an utterance, behind it silence."""
        config, bins = self.config, features.windows[0].shape[1]
        windows = [window[None, :length] for window, length in zip(features.windows, features.lengths, strict=True)]
        if config.vocal_tract_warp:  # log-uniform, from 1 / (1 + w) to 1 + w
            warp = torch.tensor([(1 + config.vocal_tract_warp) ** generator.uniform(-1, 1)], dtype=torch.float32)
            places = log_mel.warped_bins(warp, bins)
            windows = [log_mel.resample(window, torch.arange(window.shape[1])[None], places) for window in windows]
        peak = max(window.max() for window in windows).view(1, 1, 1)
        if config.equaliser_db:
            curve = log_mel.smooth_curve(_normal(generator, 1, log_mel.TERMS), bins)
            windows = [window + log_mel.PER_DB * config.equaliser_db * curve for window in windows]
        if config.coloured_noise_share and generator.random() < config.coloured_noise_share:
            below = torch.tensor(generator.uniform(*config.coloured_noise_db) / 10, dtype=torch.float32).view(1, 1, 1)
            colour = _normal(generator, 1, log_mel.TERMS)
            windows = [log_mel.add_power(window, log_mel.coloured_noise(peak, below, colour,
                                                                        _normal(generator, *window.shape)))
                       for window in windows]
        for whole, window in zip(features.windows, windows, strict=True):
            window = log_mel.cut_off(window)
            whole[:window.shape[1]] = window[0]
            whole[window.shape[1]:] = log_mel.silence(window)[0]


def _normal(generator: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))


def pad_windows(windows: list[Tensor]) -> Tensor:
    """[F_i, M] or [S_i] each -> [W, F, M] or [W, S], zero-padded."""
    return torch.nn.utils.rnn.pad_sequence(windows, batch_first=True)

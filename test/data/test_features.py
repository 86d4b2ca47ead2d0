"""Features are those of the encoder's own extractor, whatever is done to get them sooner."""

import json

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from blspkd.config import DataConfig
from blspkd.data.features import Augmenter, FeatureExtractor
from blspkd.errors import AudioError, ModelError


def whisper(folder, **settings) -> str:
    WhisperFeatureExtractor(**settings).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper"}))
    return str(folder)


def noise(length: int) -> np.ndarray:
    """Speech has pauses: the second half is digital silence."""
    samples = np.random.default_rng(length).standard_normal(length).astype(np.float32) * 0.1
    samples[length // 2:] *= length % 2
    return samples


@pytest.mark.parametrize("bins", [80, 128])
def test_padded_features_are_hugging_faces_bit_for_bit(tmp_path, bins):
    extractor = FeatureExtractor(whisper(tmp_path, feature_size=bins), pad_to_30s=True)
    for length in (160, 161, 400, 1601, 16000, 43210, 100001, 200000, 303031, 478000, 479400, 479999, 480000):
        features = extractor(noise(length))
        expected = extractor.extractor(noise(length), sampling_rate=16000, return_tensors="pt")["input_features"][0]
        assert torch.equal(features.windows[0], expected.T), length
        assert features.lengths == [length // 160]


def test_silence_is_the_same_silence(tmp_path):
    extractor = FeatureExtractor(whisper(tmp_path), pad_to_30s=True)
    silence = np.zeros(20000, dtype=np.float32)
    expected = extractor.extractor(silence, sampling_rate=16000, return_tensors="pt")["input_features"][0]
    assert torch.equal(extractor(silence).windows[0], expected.T)


def test_trimmed_features_begin_like_the_padded_ones(tmp_path):
    name = whisper(tmp_path)
    padded, trimmed = (FeatureExtractor(name, pad)(noise(16001)) for pad in (True, False))
    assert trimmed.windows[0].shape == (100, 80) and trimmed.lengths == padded.lengths == [100]
    torch.testing.assert_close(trimmed.windows[0][:98], padded.windows[0][:98], atol=1e-6, rtol=0)  # before the edge


def test_windows_of_long_audio_are_extracted_one_by_one(tiny_encoder):
    extractor = FeatureExtractor(tiny_encoder, pad_to_30s=True)
    samples = noise(2 * 32000 + 5001)
    features = extractor(samples)
    assert features.lengths == [200, 200, 31]
    for number, window in enumerate(features.windows):
        assert torch.equal(window, extractor(samples[number * 32000:(number + 1) * 32000]).windows[0])
    assert extractor(noise(32000 + 100)).lengths == [200]  # a rest without a single frame is dropped


@pytest.mark.parametrize("pad", [True, False])
def test_less_than_a_frame_is_refused(tiny_encoder, pad):
    extractor = FeatureExtractor(tiny_encoder, pad)
    for length in (0, 1, 159):
        with pytest.raises(AudioError, match=f"only {length} samples"):
            extractor(np.zeros(length, dtype=np.float32))


def test_an_encoder_without_an_extractor_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="feature extractor"):
        FeatureExtractor(str(tmp_path), True)


def faster(waveform: np.ndarray, factor: float) -> np.ndarray:
    return Augmenter(DataConfig(speed_factors=[factor]), 100).waveform(waveform, np.random.default_rng(0))


def tone(hertz: float, length: int) -> np.ndarray:
    """float64 [length] at 16 kHz"""
    return 0.5 * np.sin(2 * np.pi * hertz / 16000 * np.arange(length))


@pytest.mark.parametrize("factor", [0.85, 0.9, 1.1, 1.15])
@pytest.mark.parametrize("hertz", [300, 3000])
def test_a_perturbed_tone_is_the_tone_of_the_other_pitch(factor, hertz):
    heard = faster(tone(hertz, 32000).astype(np.float32), factor)
    assert heard.dtype == np.float32 and len(heard) == round(32000 / factor)
    expected = tone(hertz * factor, len(heard))
    middle = slice(1000, -1000)  # filters settle at the edges
    error = heard[middle] - expected[middle]
    assert 10 * np.log10(np.mean(expected[middle]**2) / np.mean(error**2)) > 100  # dB


def test_what_gets_too_high_goes_and_leaves_no_alias():
    heard = faster(tone(7700, 32000).astype(np.float32), 1.1)  # would be 8470 Hz, with an alias at 7530 Hz
    assert 10 * np.log10(np.mean(heard[1000:-1000]**2) / np.mean(tone(7700, 32000)**2)) < -100


def test_the_original_speed_is_the_recording_itself():
    samples = noise(16001)
    assert np.array_equal(faster(samples, 1.0), samples)


def test_masks_do_not_leak_into_the_next_utterance(tiny_encoder):
    extractor = FeatureExtractor(tiny_encoder, pad_to_30s=True)
    before = extractor(noise(9000)).windows[0].clone()
    config = DataConfig(time_masks=3, frequency_masks=3)
    Augmenter(config, 100).features(extractor(noise(9000)), np.random.default_rng(0))
    assert torch.equal(extractor(noise(9000)).windows[0], before)

"""Other voices, channels and noise on log-mel features, against loops in float64 and through the Augmenter."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blspkd.config import DataConfig, PromptConfig, TrainConfig
from blspkd.config_file import from_dict
from blspkd.data import log_mel
from blspkd.data.examples import ExampleDataset, make_examples
from blspkd.data.features import Augmenter, FeatureExtractor, Features
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.errors import ConfigError
from blspkd.kaldi.data_dir import KaldiDir

ALL = {"vocal_tract_warp": 0.1, "equaliser_db": 2.0, "coloured_noise_share": 1.0}
OPTIONS = st.fixed_dictionaries({
    "vocal_tract_warp": st.sampled_from([0.0, 0.04, 0.5]), "equaliser_db": st.sampled_from([0.0, 0.5, 6.0]),
    "coloured_noise_share": st.sampled_from([0.0, 0.5, 1.0])})


def speech(frames: int, bins: int = 20, seed: int = 0) -> torch.Tensor:
    """[F, M] as an extractor gives them: at most RANGE below their maximum."""
    values = torch.from_numpy(np.random.default_rng(seed).normal(-0.3, 0.5, (frames, bins))).float()
    return log_mel.cut_off(values[None])[0]


def heard(windows: list[torch.Tensor], lengths: list[int], seed: int = 0, **options) -> list[torch.Tensor]:
    config = DataConfig(**options)
    features = Features([window.clone() for window in windows], list(lengths))
    return Augmenter(config, 100).features(features, np.random.default_rng(seed)).windows


def reference(window: np.ndarray, config: DataConfig, random: np.random.Generator) -> np.ndarray:
    """[F, M] in float64, from the formulas, with the draws in their order."""
    frames, bins = window.shape
    warp = (1 + config.vocal_tract_warp) ** random.uniform(-1, 1)
    warped = np.empty((frames, bins))
    for m in range(bins):
        place = min(m * warp, bins - 1)
        low = min(int(place), bins - 2)
        warped[:, m] = (1 - place + low) * window[:, low] + (place - low) * window[:, low + 1]
    power = 10 ** (4 * warped - 4)  # f = (log10 p + 4) / 4
    peak = power.max()

    def curve(weights):
        return [sum((2 if k == 0 else 1) * w * math.cos(math.pi * k * (m + 0.5) / bins) for k, w in enumerate(weights))
                for m in range(bins)]

    gain_db = config.equaliser_db * np.array(curve(random.standard_normal(5, dtype=np.float32)))
    power = power * 10 ** (gain_db / 10)
    assert random.random() < config.coloured_noise_share
    level_db = 10 * math.log10(peak) - random.uniform(*config.coloured_noise_db)
    colour = np.array(curve(random.standard_normal(5, dtype=np.float32)))
    grain = random.standard_normal((1, frames, bins), dtype=np.float32)[0]
    power = power + 10 ** ((level_db + 3 * colour + 2.5 * grain) / 10)
    features = (np.log10(power) + 4) / 4
    return np.maximum(np.maximum(features, features.max() - 2), -1.5)


@pytest.mark.parametrize("seed", range(4))
def test_the_augmenter_computes_the_formulas(seed):
    window = speech(23)
    config = DataConfig(**ALL)
    expected = reference(window.double().numpy(), config, np.random.default_rng(seed))
    [found] = heard([window], [23], seed, **ALL)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=0, atol=2e-5)
    assert (found - window).abs().max() > 0.05


@given(st.integers(1, 12), st.integers(2, 9), st.integers(1, 12), st.integers(0, 99))
def test_resampling_is_bilinear(frames, bins, new, seed):
    random = np.random.default_rng(seed)
    plane = random.standard_normal((1, frames, bins)).astype(np.float32)
    time, place = random.uniform(0, frames - 1, new), random.uniform(0, bins - 1, bins)
    found = log_mel.resample(torch.from_numpy(plane), torch.tensor(time[None]).float(),
                             torch.tensor(place[None]).float())[0]
    for t in range(new):
        for m in range(bins):
            first, low = min(int(time[t]), max(0, frames - 2)), min(int(place[m]), bins - 2)
            share, part = time[t] - first, place[m] - low
            rows = plane[0, first], plane[0, min(first + 1, frames - 1)]
            columns = [(1 - part) * row[low] + part * row[low + 1] for row in rows]
            assert found[t, m] == pytest.approx((1 - share) * columns[0] + share * columns[1], abs=1e-4)


@given(st.floats(-1.5, 1.5, allow_subnormal=False), st.floats(-1.5, 1.5, allow_subnormal=False))
def test_powers_add_up(first, second):
    found = log_mel.add_power(torch.tensor(first), torch.tensor(second))
    power = sum(10 ** (4 * feature - 4) for feature in (first, second))
    assert float(found) == pytest.approx((math.log10(power) + 4) / 4, abs=1e-5)


def test_a_warp_moves_formants_and_the_equaliser_is_in_decibels():
    window = torch.full((4, 40), -0.5)
    window[:, 20] = 0.5
    found = log_mel.resample(window[None], torch.arange(4)[None], log_mel.warped_bins(torch.tensor([1.25]), 40))
    assert found[0, 0].argmax() == 16  # 16 * 1.25
    gains = [(heard([torch.zeros(4, 20)], [4], seed, equaliser_db=3.0)[0] / log_mel.PER_DB)[0].numpy()
             for seed in range(400)]
    # variance of 2 w_0 + sum of four cosines with weights w: 4 + the mean of 4 squared cosines' sum
    assert np.std(gains) == pytest.approx(3.0 * math.sqrt(4 + 4 / 2), rel=0.1)


def test_noise_is_as_far_below_the_peak_as_it_says_and_in_as_many_utterances():
    window = torch.full((50, 20), -1.5)
    window[0, 0] = 0.4
    levels = []
    for seed in range(300):
        [found] = heard([window], [50], seed, coloured_noise_share=0.3, coloured_noise_db=[20, 20])
        if not torch.equal(found, window):
            levels.append(float((0.4 - found[1:].median()) / log_mel.PER_DB))
    assert 0.22 < len(levels) / 300 < 0.38
    assert np.mean(levels) == pytest.approx(20, abs=2)


@given(OPTIONS, st.integers(1, 30), st.integers(0, 20), st.integers(0, 99))
def test_padding_changes_nothing_and_stays_the_silence_of_the_extractor(options, length, padding, seed):
    window = speech(length)
    end = log_mel.silence(window[None])[0].expand(padding, 20)
    [trimmed], [padded] = heard([window], [length], seed, **options), heard([torch.cat([window, end])], [length], seed,
                                                                           **options)
    assert torch.equal(padded[:length], trimmed) and trimmed.isfinite().all()
    assert torch.equal(padded[length:], log_mel.silence(trimmed[None])[0].expand(padding, 20))
    assert trimmed.max() - trimmed.min() <= 2.0001 and trimmed.min() >= -1.5


@given(OPTIONS, st.integers(0, 99))
def test_the_same_draw_for_all_windows_of_an_utterance(options, seed):
    window = speech(12)
    options["coloured_noise_share"] = 0.0  # whose grain is new in every frame
    one, two = heard([window, window], [12, 12], seed, **options)
    assert torch.equal(one, two) and torch.equal(one, heard([window], [12], seed, **options)[0])


def test_without_them_nothing_is_drawn_and_nothing_changes():
    masks = {"time_masks": 2, "frequency_masks": 2}
    random, plain = np.random.default_rng(3), np.random.default_rng(3)
    window = speech(40)
    fill = window.mean()
    off = Augmenter(DataConfig(**masks, vocal_tract_warp=0, equaliser_db=0, coloured_noise_share=0), 100)
    found = off.features(Features([window.clone()], [40]), random).windows[0]
    for _ in range(2):  # the masks of arXiv 1904.08779 alone, as they have always been drawn
        width = int(plain.integers(0, 21))
        start = int(plain.integers(0, max(1, 40 - width)))
        window[start:start + width] = fill
    for _ in range(2):
        width = int(plain.integers(0, 5))
        start = int(plain.integers(0, max(1, 20 - width)))
        window[:, start:start + width] = fill
    assert torch.equal(found, window)
    assert random.bit_generator.state == plain.bit_generator.state
    untouched = speech(40)
    Augmenter(DataConfig(), 100).features(Features([untouched], [40]), random)
    assert torch.equal(untouched, speech(40)) and random.bit_generator.state == plain.bit_generator.state


def test_draws_depend_on_seed_epoch_and_index_and_white_noise_goes_with_them(data_dir, tiny_encoder, tiny_llm):
    prompt = Prompt(load_tokenizer(tiny_llm), PromptConfig("Continue:"))
    examples = make_examples(KaldiDir.read(data_dir), None, prompt, DataConfig()).examples
    config = DataConfig(**ALL, noise_snr_db=[0, 30])

    def features(seed, epoch, index):
        dataset = ExampleDataset(examples, FeatureExtractor(tiny_encoder, False), config, seed, augment=True)
        return dataset[(epoch, index)].features.windows[0]

    first = features(0, 0, 0)
    assert torch.equal(first, features(0, 0, 0)) and first.isfinite().all()
    for other in ((1, 0, 0), (0, 1, 0)):
        assert not torch.equal(first, features(*other))
    assert ExampleDataset(examples, FeatureExtractor(tiny_encoder, False), config, 0, augment=False).augmenter is None


@pytest.mark.parametrize(("values", "message"), [
    ({"vocal_tract_warp": -0.1}, "vocal_tract_warp: -0.1 is not a number from 0 to 0.5"),
    ({"vocal_tract_warp": 0.6}, "vocal_tract_warp: 0.6 is not a number from 0 to 0.5"),
    ({"equaliser_db": float("nan")}, "equaliser_db: nan is not a number"),
    ({"coloured_noise_share": 1.1}, "coloured_noise_share: 1.1 is not a number from 0 to 1"),
    ({"coloured_noise_db": [45, 15]}, r"coloured_noise_db: \[45, 15\] is not \[lowest, highest\]"),
    ({"coloured_noise_db": [15]}, r"coloured_noise_db: \[15\] is not"),
    ({"coloured_noise_db": ["a", "b"]}, r"coloured_noise_db: \['a', 'b'\] is not"),
    ({"vocal_tract_warps": 0.1}, "unknown key 'vocal_tract_warps'; did you mean 'vocal_tract_warp'"),
])
def test_ranges_are_checked(values, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(DataConfig, values, "data")


@pytest.mark.parametrize("name", sorted(ALL))
def test_they_exclude_cached_frames_and_encoders_that_read_samples(name):
    with pytest.raises(ConfigError, match=f"cache_encoder_frames: .*data.{name}"):
        from_dict(TrainConfig, {"data": {name: ALL[name]}, "training": {"cache_encoder_frames": True}})
    with pytest.raises(ConfigError, match=f"data: {name}: changes log-mel features, and this speech encoder reads"):
        Augmenter(DataConfig(**{name: ALL[name]}), 16000, is_mel=False)
    Augmenter(DataConfig(), 16000, is_mel=False)

"""Another utterance's text: by (seed, epoch, index) alone, never what the utterance says itself."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from blspkd.config import DataConfig, PromptConfig
from blspkd.data.examples import ExampleDataset, make_examples
from blspkd.data.features import FeatureExtractor
from blspkd.data.negative import TRIES, draw_negative
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.kaldi.data_dir import KaldiDir, read_continuations


def saying(*texts):
    return [SimpleNamespace(input=np.array(text)) for text in texts]


def test_it_is_another_text_drawn_evenly_and_the_same_whenever_it_is_drawn():
    examples = saying([1, 2], [3], [1, 2], [4, 5], [3])
    drawn = [draw_negative(examples, 0, epoch, 0) for epoch in range(3000)]
    assert [ids.tolist() for ids in drawn] == [draw_negative(examples, 0, epoch, 0).tolist() for epoch in range(3000)]
    counts = Counter(tuple(ids.tolist()) for ids in drawn)
    assert counts.keys() == {(3,), (4, 5)} and counts[3,] / 3000 == pytest.approx(2 / 3, abs=0.04)
    others = [[draw_negative(examples, seed, 0, index).tolist() for index in range(5)] for seed in range(9)]
    assert len(set(map(str, others))) > 1


def test_after_ten_equal_texts_there_is_none():
    assert draw_negative(saying([1], [1], [1]), 0, 0, 1) is None and draw_negative(saying([1]), 0, 0, 0) is None
    rare = saying([2], *[[1]] * 40)
    missing = sum(draw_negative(rare, 0, epoch, 5) is None for epoch in range(2000)) / 2000
    assert missing == pytest.approx((40 / 41) ** TRIES, abs=0.04)


@pytest.fixture
def dataset(data_dir, tiny_llm, tiny_encoder):
    examples = make_examples(KaldiDir.read(data_dir), read_continuations(f"{data_dir}/continuation"),
                             Prompt(load_tokenizer(tiny_llm), PromptConfig("Continue:")), DataConfig()).examples
    config = DataConfig(speed_factors=[0.9, 1.1], noise_snr_db=[0, 10], time_masks=2, frequency_masks=2)
    return lambda **options: ExampleDataset(examples, FeatureExtractor(tiny_encoder, False), config, 3, augment=True,
                                            **options)


def test_a_dataset_draws_them_only_when_asked_and_changes_nothing_else(dataset):
    without, with_them = dataset(), dataset(negatives=True)
    for key in ((0, 0), (0, 7), (4, 7)):
        plain, loaded = without[key], with_them[key]
        assert plain.example.negative is None
        wanted = draw_negative(without.examples, 3, *key)
        assert np.array_equal(loaded.example.negative, wanted) and not np.array_equal(wanted, plain.example.input)
        assert all(map(torch.equal, plain.features.windows, loaded.features.windows))

import numpy as np
import pytest
import torch

from blspkd.config import DataConfig, PromptConfig
from blspkd.data.batching import collate
from blspkd.data.examples import ExampleDataset, make_examples
from blspkd.data.features import FeatureExtractor
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.errors import DataError
from blspkd.kaldi.data_dir import KaldiDir, read_continuations


@pytest.fixture
def prompt(tiny_llm):
    return Prompt(load_tokenizer(tiny_llm), PromptConfig(instruction="Continue:"))


def select(data_dir, prompt, **limits):
    return make_examples(KaldiDir.read(data_dir), read_continuations(f"{data_dir}/continuation"), prompt,
                         DataConfig(**limits))


def test_an_example_is_the_turn_and_the_continuation(data_dir, prompt):
    selection = select(data_dir, prompt)
    first = selection.examples[0]
    text = prompt.tokenizer.decode(np.concatenate([first.prefix, first.input, first.suffix, first.response]))
    assert text == "<|user|>Continue:\nthe farmer sold six bags<|end|><|assistant|>a nurse saw the old house<|end|>"
    assert first.n_tokens == len(first.input) and len(selection.examples) == 12 and not selection.left_out


def test_what_is_left_out_is_counted_by_reason(data_dir, prompt):
    continuations = read_continuations(f"{data_dir}/continuation")
    removed = continuations.pop(next(iter(continuations)))
    assert removed
    data = KaldiDir.read(data_dir)
    selection = make_examples(data, continuations, prompt, DataConfig(min_duration=0.9, max_duration=1.2))
    assert sum(selection.left_out.values()) + len(selection.examples) == 12
    assert selection.left_out["without a continuation"] == 1
    assert "shorter than 0.9 s" in str(selection) and "longer than 1.2 s" in str(selection)


def test_nothing_left_is_an_error_that_says_why(data_dir, prompt):
    with pytest.raises(DataError, match="12 longer than 5 LLM tokens"):
        select(data_dir, prompt, max_tokens=5)


def test_augmentation_depends_on_seed_epoch_and_index_only(data_dir, prompt, tiny_encoder):
    config = DataConfig(time_masks=2, frequency_masks=2, noise_snr_db=[10, 20], speed_factors=[0.9, 1.0, 1.1])
    items = select(data_dir, prompt).examples
    first, again = (ExampleDataset(items, FeatureExtractor(tiny_encoder, False), config, 5, augment=True)
                    for _ in range(2))
    again[(0, 3)]
    assert torch.equal(first[(1, 2)].features.windows[0], again[(1, 2)].features.windows[0])
    assert not torch.equal(first[(1, 2)].features.windows[0][:50], first[(2, 2)].features.windows[0][:50])


def test_unreadable_audio_is_reported_with_the_utterance(data_dir, prompt, tiny_encoder):
    items = select(data_dir, prompt).examples
    open(items[0].audio.path, "w").close()
    batch = collate([ExampleDataset(items, FeatureExtractor(tiny_encoder, False), DataConfig(), 0, False)[(0, i)]
                     for i in range(2)])
    assert batch.utt_ids == [items[1].utt_id] and items[0].utt_id in batch.errors[0]

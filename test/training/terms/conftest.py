"""Objectives on tiny models with any terms, and batches of the examples that these can ask for."""

import numpy as np
import pytest
import torch

from blspkd.config import DataConfig, LossConfig, ModelConfig, PromptConfig
from blspkd.data.batching import collate
from blspkd.data.examples import ExampleDataset, make_examples
from blspkd.data.features import FeatureExtractor
from blspkd.data.prompts import Prompt, load_tokenizer
from blspkd.kaldi.data_dir import KaldiDir, read_continuations
from blspkd.models.speech_llm import SpeechLlm
from blspkd.training.objective import KdObjective

ADAPTERS = {"cformer": {"heads": 2, "ffn_dim": 32, "num_pre_cif_layers": 1, "num_post_cif_layers": 1},
            "conv": {"layers": 2, "bottleneck": 16}}


@pytest.fixture
def objective(tiny_llm, tiny_encoder):
    """objective(terms, adapter="conv", w_response_ce=1.0, **model)"""
    def build(terms, adapter="conv", w_response_ce=1.0, **model):
        torch.manual_seed(0)
        config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, adapter=adapter, pad_to_30s=False,
                             adapter_options=ADAPTERS[adapter], attn_implementation="eager", **model)
        loss = LossConfig(w_input=0, w_response=0, w_response_ce=w_response_ce, terms=terms)
        return KdObjective(SpeechLlm.from_config(config, PromptConfig("Continue:")), loss)

    return build


@pytest.fixture
def examples(data_dir, tiny_llm):
    return make_examples(KaldiDir.read(data_dir), read_continuations(f"{data_dir}/continuation"),
                         Prompt(load_tokenizer(tiny_llm), PromptConfig("Continue:")), DataConfig()).examples


@pytest.fixture
def batch_of(examples, tiny_encoder):
    """batch_of(0, 3, epoch=1): these examples, with another utterance's text."""
    dataset = ExampleDataset(examples, FeatureExtractor(tiny_encoder, False), DataConfig(), 7, augment=False,
                             negatives=True)

    def build(*indices, epoch=0, negatives=None, inputs=None):
        items = [dataset[(epoch, i)] for i in indices]
        for item, ids in zip(items, negatives or [], strict=False):
            object.__setattr__(item.example, "negative", None if ids is None else np.asarray(ids, dtype=np.int32))
        for item, ids in zip(items, inputs or [], strict=False):
            object.__setattr__(item.example, "input", np.asarray(ids, dtype=np.int32))
        return collate(items)

    return build

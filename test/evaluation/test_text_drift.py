"""Text drift: exactly 0 for PLoRA whatever its weights, what it is for plain LoRA."""

import numpy as np
import pytest
import torch

from blspkd.config import ModelConfig, PromptConfig
from blspkd.data.features import FeatureExtractor
from blspkd.data.prompts import load_tokenizer
from blspkd.evaluation import text_drift
from blspkd.evaluation.results import read_results
from blspkd.evaluation.scoring import Experiment
from blspkd.evaluation.text_drift import measure_text_drift, update_drift_results
from blspkd.evaluation_config import DecodeConfig
from blspkd.kaldi.data_dir import KaldiDir
from blspkd.kaldi.sampling import sample
from blspkd.models.listener import Listener
from blspkd.models.speech_llm import SpeechLlm

OPTIONS = {"num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2, "ffn_dim": 32}


@pytest.fixture
def listener(tiny_llm, tiny_encoder):
    def build(positions):
        torch.manual_seed(0)
        config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, adapter_options=OPTIONS,
                             pad_to_30s=False, plora_rank=4,
                             plora_positions=positions)
        model = SpeechLlm.from_config(config, PromptConfig("Continue:"))
        for name, parameter in model.llm.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        return Listener(model, load_tokenizer(tiny_llm), FeatureExtractor(tiny_encoder, False))
    return build


def test_plora_changes_nothing_and_plain_lora_does(listener, data_dir, tmp_path):
    config = DecodeConfig(tasks={}, batch_size=3, num_bootstrap=50)
    partial = measure_text_drift(listener("speech"), data_dir, config)
    assert partial[:, [0, 1, 3]].max() == 0  # no rounding error either
    plain = measure_text_drift(listener("all"), data_dir, config)
    assert (plain[:, 0] > 0).all() and (plain[:, 3] > 0).all() and np.array_equal(plain[:, 2], partial[:, 2])
    update_drift_results(tmp_path / "results.json", plain, Experiment("blspkd+lora", 1, True), "valid", config)
    rows = {row.metric: row for row in read_results(tmp_path / "results.json")}
    assert rows["kl_to_base"].value == pytest.approx(plain[:, 0].sum() / plain[:, 2].sum(), abs=1e-4)
    assert rows["kl_to_base"].ci95[0] <= rows["kl_to_base"].value <= rows["kl_to_base"].ci95[1]
    assert rows["changed_top1"].value == pytest.approx(100 * plain[:, 1].sum() / plain[:, 2].sum(), abs=1e-3)


def test_a_part_of_the_set_is_the_sample_that_the_alignment_draws(listener, data_dir, monkeypatch):
    compared = []

    def compare(_, examples):
        compared.extend(example.utt_id for example in examples)
        return [(0.0, 0.0, 1, 0.0)] * len(examples)

    monkeypatch.setattr(text_drift, "_compare", compare)
    config = DecodeConfig(tasks={}, max_utterances=3, seed=1)
    utterances = KaldiDir.read(data_dir).utterances
    measure_text_drift(listener("speech"), data_dir, config)
    assert sorted(compared) == list(sample(utterances, 3, 1)) != list(utterances)[:3]

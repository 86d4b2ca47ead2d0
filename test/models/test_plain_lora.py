"""Plain LoRA, the comparison: the teacher stays the base LLM, but text that the trained model reads does not."""

import warnings

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from blspkd.config import ModelConfig, PromptConfig
from blspkd.data.batching import TokenBatch
from blspkd.models.speech_llm import SpeechLlm
from blspkd.models.speech_tokens import SpeechTokens

OPTIONS = {"num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2, "ffn_dim": 32}


@pytest.fixture
def build(tiny_llm, tiny_encoder):
    def model(positions, share_prefix=True):
        torch.manual_seed(0)
        config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, adapter_options=OPTIONS,
                             pad_to_30s=False, plora_rank=4,
                             plora_positions=positions, share_prefix=share_prefix)
        built = SpeechLlm.from_config(config, PromptConfig("Continue:"))
        for name, parameter in built.llm.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        return built.eval()
    return model


def sequences():
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [5, 6, 11, 12, 13, 14]])
    inputs = torch.zeros(2, 6, dtype=torch.bool)
    inputs[:, 2:4] = True
    return TokenBatch(ids=ids, input_mask=inputs, response_mask=torch.zeros(2, 6, dtype=torch.bool),
                      lengths=torch.tensor([6, 6]), prefix=np.array([5, 6], dtype=np.int32))


@torch.no_grad()
def test_only_plain_lora_changes_text(build):
    batch = sequences()
    plain, partial = build("all"), build("speech")
    base = partial.teacher_states(batch)
    torch.testing.assert_close(plain.teacher_states(batch)[:, 2:], base[:, 2:], rtol=1e-5, atol=1e-5)
    read = {model: model.causal_lm.base_model(input_ids=batch.ids).last_hidden_state for model in (plain, partial)}
    assert torch.allclose(read[partial][:, 2:], base[:, 2:], atol=1e-5)
    assert not torch.allclose(read[plain], read[partial], atol=1e-3)


@torch.no_grad()
def test_plain_lora_reads_the_prefix_in_its_own_way(build):
    """A shared prefix would be the base LLM's; the student's is not."""
    batch = sequences()
    shared, whole = build("all", True), build("all", False)
    tokens = torch.randn(2, 2, shared.causal_lm.get_input_embeddings().embedding_dim)
    speech = SpeechTokens(tokens, torch.tensor([2, 2]))
    torch.testing.assert_close(shared.student_states(batch, speech), whole.student_states(batch, speech))


def test_weights_come_back(build, tmp_path):
    model = build("all")
    model.save_pretrained(tmp_path / "model")
    again = SpeechLlm.from_pretrained(tmp_path / "model")
    weights = dict(again.llm.named_parameters())
    assert all(torch.equal(value, weights[name]) for name, value in model.llm.named_parameters())


def test_training_reaches_its_weights_with_a_teacher_pass_in_between(build):
    model, batch = build("all").train(), sequences()
    tokens = torch.randn(2, 2, model.causal_lm.get_input_embeddings().embedding_dim)
    student = model.student_states(batch, SpeechTokens(tokens, torch.tensor([2, 2])))
    teacher = model.teacher_states(batch)
    (student - teacher).pow(2).sum().backward()
    gradients = [p.grad for name, p in model.llm.named_parameters() if "lora_" in name]
    assert gradients and all(gradient is not None and gradient.any() for gradient in gradients)
    assert all(p.requires_grad for name, p in model.llm.named_parameters() if "lora_" in name)


@pytest.mark.parametrize(("positions", "told"), [("speech", True), ("all", False)])
def test_peft_alone_says_that_it_would_apply_partial_lora_everywhere(build, tmp_path, tiny_llm, positions, told):
    build(positions).save_pretrained(tmp_path / "model")
    folder = tmp_path / "model" / "plora"
    assert ("speech positions only" in (folder / "README.md").read_text(encoding="utf-8")) == told
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llm), folder)
    assert any("at_speech_positions_only_see_README" in str(warning.message) for warning in caught) == told

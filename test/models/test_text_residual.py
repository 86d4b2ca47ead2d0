"""CTC's soft hypothesis as text embeddings, added to the speech tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blspkd.config import ModelConfig, PromptConfig
from blspkd.errors import ConfigError
from blspkd.models.adapters.adapter import Sides
from blspkd.models.adapters.cformer import CFormer
from blspkd.models.speech_llm import SpeechLlm
from blspkd.models.text_residual import TextResidual

SMALL = {"num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2, "ffn_dim": 32}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(3, 12), min_size=1, max_size=4), st.integers(0, 999))
def test_it_is_the_formula_whatever_the_batch_mates(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    size, vocabulary = len(lengths), 5
    inside = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    logits = 2 * torch.randn(size, max(lengths), vocabulary + 1, generator=generator)
    amounts = (torch.rand(size, max(lengths), generator=generator) + 0.05) * inside
    n_tokens = torch.randint(1, 4, (size,), generator=generator)
    embeddings = torch.randn(vocabulary, 3, generator=generator)
    residual, control = TextResidual(best=False), TextResidual(best=True)
    residual.gate.data.fill_(0.5)
    control.gate.data.fill_(0.5)
    tokens = torch.randn(size, int(n_tokens.max()), 3, generator=generator)
    found, best = (part(tokens, logits, amounts, n_tokens, embeddings) - tokens for part in (residual, control))
    control.acoustic_gate.data.fill_(0.25)
    torch.testing.assert_close(control(tokens, logits, amounts, n_tokens, embeddings), best + 0.25 * tokens)
    for row, n in enumerate(n_tokens.tolist()):
        line = (amounts[row].double() * n / amounts[row].double().sum()).cumsum(0)
        before = torch.cat([line.new_zeros(1), line[:-1]])
        p = logits[row].double().softmax(-1)
        for i in range(n):
            weights = (line.clamp(max=i + 1) - before.clamp(min=i)).clamp(min=0)  # of each frame in token i
            share = (weights[:, None] * p[:, 1:]).sum(0) / (weights * (1 - p[:, 0])).sum()
            expected = 0.5 * share @ embeddings.double()
            torch.testing.assert_close(found[row, i].double(), expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(best[row, i], 0.5 * embeddings[share.argmax()], rtol=1e-4, atol=1e-5)
        assert not found[row, n:].any() and not best[row, n:].any()


@pytest.fixture
def made(tiny_llm, tiny_encoder):
    def build(**options):
        torch.manual_seed(0)
        config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, pad_to_30s=False,
                             adapter_options={**SMALL, "ctc_classes": 400, **options})
        return SpeechLlm.from_config(config, PromptConfig("Continue:"))
    return build


@pytest.mark.parametrize("how", ["posterior", "best"])
def test_it_starts_as_the_base_bit_for_bit_and_its_gate_can_open(made, how):
    model, base = made(text_residual=how), made()
    frames, lengths = torch.randn(2, 30, model.adapter.to_alpha.in_features), torch.tensor([30, 24])
    frames[1, 24:] = 0
    speech, plain = (one.adapt(frames, lengths, torch.tensor([4, 3])) for one in (model, base))
    assert torch.equal(speech.tokens, plain.tokens)
    for one in (speech, plain):
        one.tokens.pow(3).sum().backward()
    gradients = dict(base.adapter.named_parameters())
    for name, weight in model.adapter.named_parameters():
        if name in ("text.gate", "text.acoustic_gate"):
            assert weight.grad != 0  # it can open, or close
        else:
            assert (weight.grad is None) == (gradients[name].grad is None)
            assert weight.grad is None or torch.equal(weight.grad, gradients[name].grad)
    assert model.adapter.counter.weight.grad is None  # the head learns from its own term alone
    model.adapter.text.gate.data.fill_(1.0)
    assert not torch.equal(model.adapt(frames, lengths, torch.tensor([4, 3])).tokens, plain.tokens)


def test_it_is_saved_and_loaded_with_the_adapter(made, tmp_path):
    model = made(text_residual="posterior")
    model.adapter.text.gate.data.fill_(0.25)
    model.save_pretrained(tmp_path / "model")
    assert SpeechLlm.from_pretrained(tmp_path / "model").adapter.text.gate == 0.25


def test_every_token_needs_a_class_of_its_own(made):
    with pytest.raises(ConfigError, match="text_residual: posterior: of ctc_classes 399 some stand for several of the "
                                          "LLM's 400 tokens; set ctc_classes to 400"):
        made(text_residual="posterior", ctc_classes=399)
    with pytest.raises(ConfigError, match="text_residual: best needs the counter that ctc_classes makes"):
        CFormer(CFormer.Options(**SMALL, text_residual="best"), Sides(24, 32, 0.1, 400))

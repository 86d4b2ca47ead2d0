"""The assembled model: saved and loaded whole, refused when parts do not fit; and at work."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from blspkd.config import ModelConfig, PromptConfig
from blspkd.errors import ConfigError, ModelError
from blspkd.models.listener import GenerationOptions, Listener
from blspkd.models.nearest import snap
from blspkd.models.speech_llm import SpeechLlm
from blspkd.models.speech_tokens import SpeechTokens

ADAPTER_OPTIONS = {"cformer": {"heads": 2, "ffn_dim": 32, "num_pre_cif_layers": 1, "num_post_cif_layers": 2},
                   "conv": {"bottleneck": 16}}
SMALL = {"pad_to_30s": False, "attn_implementation": "eager"}


@pytest.fixture(params=["cformer", "cformer+plora+encoder", "conv"])
def saved(request, tiny_llm, tiny_encoder, tmp_path):
    """Folder of a model whose trained parts are random."""
    torch.manual_seed(0)
    extra = {"plora_rank": 2, "train_encoder": True} if "plora" in request.param else {}
    adapter = request.param.split("+")[0]
    config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, adapter=adapter,
                         adapter_options=ADAPTER_OPTIONS[adapter], **SMALL, **extra)
    model = SpeechLlm.from_config(config, PromptConfig("Continue:"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model", model


def waveforms(*lengths):
    generator = np.random.default_rng(0)
    return [generator.standard_normal(n).astype(np.float32) * 0.1 for n in lengths]


OPTIONS = GenerationOptions(max_new_tokens=6)


def test_from_pretrained_puts_the_whole_model_together_again(saved, tiny_llm):
    folder, model = saved
    listener = Listener.from_pretrained(folder)
    expected = Listener(model, listener.tokenizer, listener.extractor)
    for a, b in zip(listener.listen(waveforms(9000, 16000)), expected.listen(waveforms(9000, 16000)), strict=True):
        assert torch.equal(a, b)
    replies = [x.generate_from_speech(waveforms(9000, 16000), ["one", "two"], OPTIONS) for x in (listener, expected)]
    assert replies[0] == replies[1]


def test_frozen_weights_may_have_another_precision_than_in_training(saved):
    folder, model = saved
    other = SpeechLlm.from_pretrained(folder, "bfloat16")
    assert other.embedding_table.dtype == torch.bfloat16 and model.embedding_table.dtype == torch.float32
    for name, value in other.adapter.state_dict().items():
        assert torch.equal(value, model.adapter.state_dict()[name]), name


def test_a_checkpoint_holds_only_what_was_trained(saved, tiny_llm):
    folder, model = saved
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    trained = sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    assert trained <= size <= trained + 20_000


@pytest.mark.parametrize("beams", [1, 3])
def test_a_reply_does_not_depend_on_batch_mates(saved, beams):
    listener = Listener.from_pretrained(saved[0])
    sounds, instructions = waveforms(9000, 23000, 12000), ["Translate:", "Say it again and again:", "x"]
    options = GenerationOptions(max_new_tokens=6, num_beams=beams)
    together = listener.generate_from_speech(sounds, instructions, options)
    alone = [listener.generate_from_speech([s], [i], options)[0] for s, i in zip(sounds, instructions, strict=True)]
    assert together == alone


def test_text_replies_are_the_base_llms(saved, tiny_llm):
    from transformers import AutoModelForCausalLM
    listener = Listener.from_pretrained(saved[0])
    reply = listener.generate_from_text(["the farmer sold six bags"], ["Continue:"], OPTIONS)[0]
    ids = listener.prompt.split("the farmer sold six bags", "Continue:")
    prompt = torch.tensor([ids.prefix + ids.input + ids.suffix])
    base = AutoModelForCausalLM.from_pretrained(tiny_llm, attn_implementation="eager")
    expected = base.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False)
    assert reply.n_tokens == len(ids.input)
    assert reply.token_ids == expected[0, prompt.shape[1]:].tolist()[:len(reply.token_ids)]


def test_generation_defaults_that_a_model_ships_do_not_interfere(saved):
    folder, model = saved
    plain = Listener.from_pretrained(folder).generate_from_text(["the farmer sold six bags"], ["Continue:"], OPTIONS)
    model.causal_lm.generation_config.repetition_penalty = 5.0
    listener = Listener.from_pretrained(folder)
    found = Listener(model, listener.tokenizer, listener.extractor).generate_from_text(
        ["the farmer sold six bags"], ["Continue:"], OPTIONS)
    assert found == plain


def test_damaged_or_foreign_weights_are_explained(saved, tmp_path):
    folder, _ = saved
    with pytest.raises(ModelError, match="no trained model"):
        SpeechLlm.from_pretrained(tmp_path)
    (folder / "adapter.safetensors").write_bytes(b"half")
    with pytest.raises(ModelError, match="do not fit|damaged"):
        SpeechLlm.from_pretrained(folder)


def test_more_layers_than_there_are_cannot_be_trained(tiny_llm, tiny_encoder):
    config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, train_encoder=True, train_encoder_layers=9,
                         adapter_options=ADAPTER_OPTIONS["cformer"], **SMALL)
    with pytest.raises(ConfigError, match="encoder has 2 layers"):
        SpeechLlm.from_config(config, PromptConfig())


def test_an_llm_whose_logits_are_capped_is_refused(tmp_path, tiny_encoder):
    from transformers import Gemma2Config, Gemma2ForCausalLM
    Gemma2ForCausalLM(Gemma2Config(vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, head_dim=8,
                                   num_attention_heads=2, num_key_value_heads=1, final_logit_softcapping=0.1,
                                   initializer_range=0.5)).save_pretrained(tmp_path)
    config = ModelConfig(llm=str(tmp_path), speech_encoder=tiny_encoder, **SMALL)
    with pytest.raises(ModelError, match="linear function"):
        SpeechLlm.from_config(config, PromptConfig())


def test_speech_tokens_have_the_norm_of_text_embeddings(saved):
    _, model = saved
    listener = Listener.from_pretrained(saved[0])
    tokens = listener.listen(waveforms(16000))[0]
    rms = model.causal_lm.get_input_embeddings().weight.pow(2).mean().sqrt()
    torch.testing.assert_close(tokens.pow(2).mean(-1).sqrt(), rms.expand(len(tokens)), rtol=1e-4, atol=1e-5)


SAVE = """
import sys, torch
from blspkd.config import ModelConfig, PromptConfig
from blspkd.models.speech_llm import SpeechLlm
torch.manual_seed(0)
config = ModelConfig(llm=sys.argv[1], speech_encoder=sys.argv[2], plora_rank=2, train_encoder=True)
SpeechLlm.from_config(config, PromptConfig("Continue:")).save_pretrained(sys.argv[3])
"""


def test_equal_models_are_equal_files(tiny_llm, tiny_encoder, tmp_path):
    """Whatever order Python's sets have in this process."""
    for seed in ("1", "2"):
        subprocess.run([sys.executable, "-c", SAVE, tiny_llm, tiny_encoder, str(tmp_path / seed)], check=True,
                       env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])})
    one, two = ({path.relative_to(tmp_path / seed): path.read_bytes() for path in (tmp_path / seed).rglob("*.*")}
                for seed in ("1", "2"))
    assert one.keys() == two.keys() and len(one) == 8
    assert [name for name in one if one[name] != two[name]] == []


@pytest.mark.parametrize("saved", ["cformer+plora+encoder"], indirect=True)
@pytest.mark.parametrize("part", ["adapter", "encoder", "llm"])
def test_a_tensor_without_elements_is_never_written(saved, part):
    """As DeepSpeed's ZeRO stage 3 leaves parameters: shared out among the ranks, and empty between two steps."""
    folder, model = saved
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    name, parameter = [(name, p) for name, p in getattr(model, part).named_parameters() if p.requires_grad][-1]
    parameter.data = torch.empty(0)
    with pytest.raises(ModelError, match=rf"{part}\.{name}.*ZeRO stage 3"):
        model.save_pretrained(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before


def test_weights_of_loss_terms_without_elements_are_never_written(saved):
    folder, model = saved
    with pytest.raises(ModelError, match=r"scale has no elements.*ZeRO stage 3"):
        model.save_pretrained(folder, {"terms.safetensors": {"scale": torch.empty(0)}})
    assert not (folder / "terms.safetensors").exists()


@pytest.mark.parametrize("how", ["none", "hard", "soft"])
def test_in_training_the_llm_reads_snapped_tokens_and_gradients_pass_straight_through(saved, how):
    _, model = saved
    model.config.snap = how
    tokens = (torch.randn(2, 3, model.embedding_table.shape[1]) * model.embedding_rms).requires_grad_()
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 0]], dtype=torch.bool)
    sequences = SimpleNamespace(ids=torch.full((2, 4), 5), input_mask=mask)
    embedded = model.embed(sequences, SpeechTokens(tokens, torch.tensor([2, 3])))
    rows = torch.cat([tokens[0, :2], tokens[1]])
    expected = snap(rows.detach(), model.embedding_table, model.embedding_rms**2, how)
    assert torch.equal(embedded[mask], expected)
    assert (how == "none") == torch.equal(expected, rows)
    assert torch.equal(embedded[~mask], model.embedding_table[[5, 5, 5]])
    weights = torch.randn_like(embedded)
    (embedded * weights).sum().backward()
    assert torch.equal(torch.cat([tokens.grad[0, :2], tokens.grad[1]]), weights[mask])
    assert not tokens.grad[0, 2].any()


def test_under_autocast_snapped_tokens_are_the_embeddings_themselves(saved):
    _, model = saved
    model.config.snap = "hard"
    tokens = (torch.randn(1, 3, model.embedding_table.shape[1]) * model.embedding_rms).bfloat16()
    sequences = SimpleNamespace(ids=torch.full((1, 3), 5), input_mask=torch.ones(1, 3, dtype=torch.bool))
    embedded = model.embed(sequences, SpeechTokens(tokens, torch.tensor([3])))
    assert torch.equal(embedded[0], model.embedding_table[model.nearest(tokens[0].float())[0]])

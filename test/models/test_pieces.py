"""A batch that the LLM reads in pieces gives what it gives at once, and its activations take less memory."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from blspkd.audio.samples import AudioSource
from blspkd.config import ModelConfig, PromptConfig
from blspkd.data.batching import lay_out
from blspkd.data.examples import Example
from blspkd.models import pieces
from blspkd.models.plora import add_plora
from blspkd.models.speech_llm import SpeechLlm
from blspkd.models.speech_tokens import SpeechTokens

TOKENS = [5, 1, 9, 4, 6, 2, 3]  # of each row's transcript


class Encoder(torch.nn.Module):
    width = 16


@pytest.fixture(params=[True, False], ids=["shared prefix", "whole rows"])
def model(request):
    torch.manual_seed(3)
    llm = LlamaForCausalLM(LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=3,
                                       num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3))
    llm = add_plora(llm.eval().requires_grad_(False), 2, 8.0, 0.2, "all-linear")
    for name, parameter in llm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    config = ModelConfig(share_prefix=request.param, plora_rank=2, adapter_options={
        "heads": 2, "num_pre_cif_layers": 1, "num_post_cif_layers": 1})
    return SpeechLlm(config, PromptConfig(), Encoder(), llm)


def sequences():
    generator = np.random.default_rng(0)

    def draw(n: int) -> np.ndarray:
        return generator.integers(0, 50, n).astype(np.int32)

    prefix = draw(6)
    return lay_out([Example("u", AudioSource("none"), 1.0, prefix, draw(n), draw(3), draw(4)) for n in TOKENS], TOKENS)


def step(model, most):
    """Student's states and all gradients, bytes that were kept for the backward pass, rows of every LLM call."""
    model.most_positions, kept, calls = most, {}, []
    hook = model.causal_lm.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(len(kwargs.get("inputs_embeds", ()))), with_kwargs=True)
    tokens = torch.randn(len(TOKENS), max(TOKENS), 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    speech = SpeechTokens(tokens, torch.tensor(TOKENS))
    batch = sequences()
    model.student_states(batch, speech)  # reads the prefix
    calls.clear()
    torch.manual_seed(5)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = model.student_states(batch, speech)
    model.zero_grad()
    (states * torch.linspace(-1, 1, states.shape[1])[:, None]).sum().backward()
    hook.remove()
    gradients = [tokens.grad] + [p.grad.clone() for name, p in model.llm.named_parameters() if "lora" in name]
    return [states.detach(), *gradients], sum(kept.values()), calls


@pytest.mark.parametrize("most", [1, 90, 150, 10_000])
def test_states_and_gradients_are_those_of_the_whole_batch(model, most):
    model.eval()  # no dropout
    whole, _, _ = step(model, 0)
    in_pieces, _, calls = step(model, most)
    assert sum(calls) >= len(TOKENS) and (len(calls) > 1) == (most < 10_000)
    for expected, found in zip(whole, in_pieces, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    if most == 10_000:
        assert all(map(torch.equal, whole, in_pieces))


def test_all_but_the_last_piece_are_computed_twice_and_little_is_kept(model):
    whole, all_bytes, _ = step(model, 0)
    length = whole[0].shape[1]
    _, kept, calls = step(model, 4 * length)
    assert calls == [1, 2, 2, 2, 2, 2, 1] and kept < 0.5 * all_bytes


def test_dropout_is_the_same_both_times(model, monkeypatch):
    model.train()
    recomputed, _, calls = step(model, 90)
    monkeypatch.setattr(pieces, "checkpoint", lambda run, piece, use_reentrant: run(piece))
    kept, _, fewer = step(model, 90)
    assert len(calls) > len(fewer) and all(map(torch.equal, recomputed, kept))


@pytest.mark.parametrize(("rows", "length", "most", "expected"), [
    (4, 10, 0, [4]), (4, 10, 40, [4]), (4, 10, 39, [1, 1, 2]), (5, 10, 40, [1, 2, 2]), (3, 10, 5, [1, 1, 1]),
    (0, 0, 5, [0])])
def test_pieces_are_even_and_whole_rows(rows, length, most, expected):
    sizes = []

    def run(piece: slice) -> torch.Tensor:
        sizes.append(piece.stop - piece.start)
        return torch.arange(piece.start, piece.stop, dtype=torch.float32)

    assert torch.equal(pieces.in_pieces(run, rows, length, most), torch.arange(rows, dtype=torch.float32))
    assert sizes == expected
    sizes.clear()
    with torch.no_grad():
        pieces.in_pieces(run, rows, length, most)
    assert sizes == [rows]  # nothing is kept then

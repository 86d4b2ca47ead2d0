"""Reading the prompt's prefix once changes nothing: not the states, not the gradients, not PLoRA."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from blspkd.audio.samples import AudioSource
from blspkd.config import ModelConfig, PromptConfig
from blspkd.data.batching import lay_out
from blspkd.data.examples import Example
from blspkd.data.prompts import PromptIds
from blspkd.models.listener import GenerationOptions, Listener
from blspkd.models.plora import add_plora
from blspkd.models.shared_prefix import SharedPrefix
from blspkd.models.speech_llm import SpeechLlm
from blspkd.models.speech_tokens import SpeechTokens

SIZES = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "head_dim": 4,
         "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
LLMS = {"llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES)),
        "gemma2, sliding window": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, sliding_window=9)),
        "gemma2, window shorter than the prefix": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, sliding_window=4)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=4, attn_pdrop=0.0,
                                                   resid_pdrop=0.0, embd_pdrop=0.0))}


class Encoder(torch.nn.Module):
    width = 16


def example(prefix, n_input, n_response, generator):
    draw = lambda n: generator.integers(0, 50, n).astype(np.int32)  # noqa: E731
    return Example("u", AudioSource("none"), 1.0, prefix, draw(n_input), draw(3), draw(n_response))


def model_of(llm, share_prefix, rank=2):
    torch.manual_seed(3)
    llm = llm().eval().requires_grad_(False)
    if rank:
        llm = add_plora(llm, rank, 8.0, 0.0, "all-linear")
        for name, parameter in llm.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    config = ModelConfig(share_prefix=share_prefix, plora_rank=rank, adapter_options={
        "heads": 2, "num_pre_cif_layers": 1, "num_post_cif_layers": 1})
    return SpeechLlm(config, PromptConfig(), Encoder(), llm).train()


@pytest.mark.parametrize("name", LLMS)
def test_states_and_gradients_are_those_of_full_sequences(name):
    generator = np.random.default_rng(0)
    prefix = generator.integers(0, 50, 6).astype(np.int32)
    examples = [example(prefix.copy(), *sizes, generator) for sizes in ((5, 7), (1, 2), (9, 4))]
    sequences = lay_out(examples, [e.n_tokens for e in examples])
    rank = 0 if name == "gpt2" else 2  # GPT-2 is made of Conv1D, which PLoRA refuses
    results = []
    for share in (False, True):
        model = model_of(LLMS[name], share, rank)
        tokens = torch.randn(3, 9, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        student = model.student_states(sequences, SpeechTokens(tokens, torch.tensor([5, 1, 9])))
        teacher = model.teacher_states(sequences)
        valid = torch.arange(student.shape[1]) < sequences.lengths[:, None]
        valid[:, :len(prefix)] = False
        (student[valid] * torch.linspace(-1, 1, int(valid.sum()))[:, None]).sum().backward()
        results.append([student[valid].detach(), teacher[valid], tokens.grad]
                       + [p.grad for n, p in model.llm.named_parameters() if "lora" in n])
        assert all(value is not None for value in results[-1])
    for whole, shared in zip(*results, strict=True):
        torch.testing.assert_close(shared, whole, rtol=1e-5, atol=1e-5 * float(whole.abs().max()))


def test_the_prefix_is_read_once_and_expanded_without_a_trace_of_earlier_batches():
    llm, prefix, shared = LLMS["llama"]().eval(), np.arange(6, dtype=np.int32), SharedPrefix()
    calls = []
    llm.base_model.register_forward_hook(lambda *_: calls.append(1))
    first = shared.expand(llm, prefix, 2)
    first.update(torch.ones(2, 2, 1, 4), torch.ones(2, 2, 1, 4), 0)
    second = shared.expand(llm, prefix.copy(), 3)
    assert len(calls) == 1 and second.get_seq_length() == 6 and second.layers[0].keys.shape == (3, 2, 6, 4)
    shared.expand(llm, prefix + 1, 1)
    assert len(calls) == 2


def test_without_a_common_prefix_or_under_checkpointing_nothing_is_shared():
    llm, shared, generator = LLMS["llama"](), SharedPrefix(), np.random.default_rng(0)
    rows = [example(np.array(ids, dtype=np.int32), 2, 2, generator) for ids in ([1, 2], [1, 2], [1, 3])]
    assert lay_out(rows, [2, 2, 2]).prefix is None
    assert lay_out(rows[:2], [2, 2]).prefix.tolist() == [1, 2]
    assert shared.expand(llm, None, 2) is None
    llm.gradient_checkpointing_enable()
    assert shared.expand(llm, rows[0].prefix, 2) is None


def test_an_llm_with_another_kind_of_state_reads_whole_sequences():
    llm = MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4))
    assert SharedPrefix().expand(llm, np.arange(3, dtype=np.int32), 2) is None


def listener_of(model):
    """As much of a Listener as replies need."""
    listener = Listener.__new__(Listener)
    listener.model, listener.prefix, listener.ends = model.eval(), SharedPrefix(), [7]
    listener.tokenizer = SimpleNamespace(decode=lambda ids, **_: " ".join(map(str, ids)))
    model.causal_lm.generation_config = GenerationConfig(eos_token_id=[7], pad_token_id=7, do_sample=False)
    prefixes = {"a": [1, 2, 3, 4, 5], "b": [1, 2, 3, 9, 9, 9], "c": [11]}
    listener.prompt = SimpleNamespace(around=lambda instruction: (prefixes[instruction], [6, 8]))
    return listener


@pytest.mark.parametrize("instructions", ["aaa", "aba", "abc"])
@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("name", LLMS)
def test_replies_are_those_of_a_listener_that_reads_every_prefix(name, beams, instructions, monkeypatch):
    listener = listener_of(model_of(LLMS[name], True, rank=0 if name == "gpt2" else 2))
    speech = [torch.randn(n, 16, generator=torch.Generator().manual_seed(n)) for n in (2, 5, 3)]
    typed = [PromptIds([1, 2, 3], [n] * n, [6, 8]) for n in (2, 5, 3)]
    options = GenerationOptions(max_new_tokens=6, num_beams=beams)
    replies = [listener.reply(speech, list(instructions), options) for _ in range(2)], listener.complete(typed, options)
    monkeypatch.setattr(SharedPrefix, "expand", lambda *_, **__: None)
    alone = [listener.reply(speech[n:n + 1], [instructions[n]], options)[0] for n in range(3)]
    assert replies[0] == [alone, alone]
    assert replies[1] == [listener.complete(typed[n:n + 1], options)[0] for n in range(3)]


def test_models_that_count_places_read_every_prefix():
    from transformers import GPTNeoConfig, GPTNeoForCausalLM, MptConfig, MptForCausalLM

    prefix = np.arange(5)
    neo = GPTNeoForCausalLM(GPTNeoConfig(vocab_size=50, hidden_size=16, num_layers=2, num_heads=4, window_size=6,
                                         attention_types=[[["global", "local"], 1]]))
    mpt = MptForCausalLM(MptConfig(d_model=16, n_heads=4, n_layers=2, vocab_size=50))
    for llm in (neo, mpt, LLMS["gemma2, sliding window"]()):
        assert SharedPrefix().expand(llm, prefix, 2, padded_behind=True) is None
    assert SharedPrefix().expand(LLMS["llama"](), prefix, 2, padded_behind=True) is not None


def test_another_precision_reads_the_prefix_again():
    shared, llm = SharedPrefix(), LLMS["llama"]()
    for dtype in (torch.float32, torch.bfloat16):
        assert shared.expand(llm.to(dtype), np.arange(5), 2).layers[0].keys.dtype == dtype


def test_a_row_without_anything_behind_the_prefix_is_replied_to(monkeypatch):
    listener = listener_of(model_of(LLMS["llama"], True))
    typed = [PromptIds([1, 2, 3], [n] * n, []) for n in (0, 5, 3)]
    options = GenerationOptions(max_new_tokens=4)
    together = listener.complete(typed, options)
    monkeypatch.setattr(SharedPrefix, "expand", lambda *_, **__: None)
    assert together == [listener.complete([one], options)[0] for one in typed]


def test_a_listener_reads_a_prefix_once(monkeypatch):
    listener = listener_of(model_of(LLMS["llama"], True))
    seen = []
    listener.model.causal_lm.base_model.layers[0].register_forward_pre_hook(
        lambda layer, args: seen.append(tuple(args[0].shape[:2])))
    for _ in range(2):
        listener.reply([torch.zeros(4, 16), torch.zeros(2, 16)], ["a", "a"], GenerationOptions(max_new_tokens=1))
    assert seen == [(1, 5), (2, 6), (2, 6)]  # prefix; 4 speech tokens and 2 of the suffix

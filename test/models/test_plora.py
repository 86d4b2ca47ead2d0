"""PLoRA: text is never touched, speech is; bit for bit, on several architectures."""

import copy

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

from blspkd.errors import ModelError
from blspkd.models.kv_cache import cache_argument, find_cache
from blspkd.models.plora import PLoraLinear, add_plora, checkpoint_context, load_plora, speech_positions

SIZES = dict(vocab_size=61, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=64, pad_token_id=0, eos_token_id=1,
             bos_token_id=2, initializer_range=0.3)
ARCHITECTURES = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config, "gemma": GemmaConfig,
                 "gemma2": Gemma2Config, "gemma3": Gemma3TextConfig}


def base_model(name="llama"):
    torch.manual_seed(3)
    window = {"sliding_window": 4} if name in ("gemma2", "gemma3") else {}  # shorter than the sequences below
    config = ARCHITECTURES[name](**SIZES, **window)
    attention = "eager" if name == "gemma2" else "sdpa"  # soft-capped scores
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval().requires_grad_(False)


def with_plora(llm, zero_b=False, seed=5):
    model = add_plora(llm, rank=4, alpha=8.0, dropout=0.0, targets="all-linear")
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name and not zero_b:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(params=ARCHITECTURES)
def pair(request):
    """A base LLM and the same LLM with random PLoRA weights."""
    base = base_model(request.param)
    return base, with_plora(copy.deepcopy(base))


def sequence(batch=3, length=9):
    torch.manual_seed(0)
    mask = torch.zeros(batch, length, dtype=torch.bool)
    mask[0, 3:6] = mask[1, 2:7] = True  # the last row is text only
    return torch.randint(3, 61, (batch, length)), mask


def logits(model, ids, mask=None):
    if mask is None:
        return model(input_ids=ids).logits
    with speech_positions(mask):
        return model(input_ids=ids).logits


@torch.no_grad()
def test_text_is_the_base_model_bit_for_bit(pair):
    base, plora = pair
    ids, mask = sequence()
    expected = logits(base, ids)
    assert torch.equal(logits(plora, ids), expected)
    assert torch.equal(logits(plora, ids, torch.zeros_like(mask)), expected)
    with plora.disable_adapter():
        assert torch.equal(logits(plora, ids, mask), expected)
    assert not torch.equal(logits(plora, ids, mask), expected)  # and on again


def test_an_empty_index_is_the_base_model_in_training_too(pair):
    base, plora = pair
    ids, mask = sequence()
    found = logits(plora.train(), ids, torch.zeros_like(mask))
    assert found.requires_grad and torch.equal(found, logits(base.train(), ids))


@torch.no_grad()
def test_positions_before_the_speech_and_text_rows_are_untouched_and_speech_is_not(pair):
    base, plora = pair
    ids, mask = sequence()
    expected, found = logits(base, ids), logits(plora, ids, mask)
    assert torch.equal(found[0, :3], expected[0, :3]) and torch.equal(found[1, :2], expected[1, :2])
    assert torch.equal(found[2], expected[2])
    assert (found[0, 3:] - expected[0, 3:]).abs().max() > 1e-3


@torch.no_grad()
def test_zero_b_is_the_base_model_bit_for_bit(pair):
    base, _ = pair
    ids, mask = sequence()
    assert torch.equal(logits(with_plora(copy.deepcopy(base), zero_b=True), ids, mask), logits(base, ids))


@torch.no_grad()
def test_equals_lora_multiplied_by_the_mask():
    torch.manual_seed(0)
    layer = with_plora(base_model()).get_base_model().model.layers[0].self_attn.q_proj
    plora = with_plora(base_model())
    q_proj = plora.get_base_model().model.layers[0].self_attn.q_proj
    ids, mask = sequence()
    seen = {}
    q_proj.register_forward_hook(lambda module, args, output: seen.update(x=args[0], y=output))
    logits(plora, ids, mask)
    x, a, b = seen["x"], layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = x @ layer.base_layer.weight.T + mask[..., None] * (x @ a.T @ b.T) * (8.0 / 4)
    torch.testing.assert_close(seen["y"], expected)


@torch.no_grad()
def test_nan_weights_leave_text_untouched(pair):
    base, plora = pair
    for name, parameter in plora.named_parameters():
        if "lora_" in name:
            parameter.fill_(float("nan"))
    ids, mask = sequence()
    expected, found = logits(base, ids), logits(plora, ids, mask)
    assert torch.equal(found[2], expected[2]) and found[0, 3:].isnan().all()


def gradients(plora, checkpointing):
    plora = copy.deepcopy(plora).train()
    if checkpointing:
        plora.get_base_model().gradient_checkpointing_enable({"use_reentrant": False,
                                                              "context_fn": checkpoint_context})
    ids, mask = sequence()
    embeddings = plora.get_base_model().get_input_embeddings()(ids).detach().requires_grad_()
    with speech_positions(mask):
        hidden = plora.get_base_model().model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    with torch.no_grad():
        logits(plora, ids)  # a teacher pass in between
    (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    return [p.grad for n, p in plora.named_parameters() if "lora_" in n] + [embeddings.grad]


def test_gradients_are_the_same_with_checkpointing(pair):
    plain, checkpointed = (gradients(pair[1], checkpointing) for checkpointing in (False, True))
    assert len(plain) > 20
    for a, b in zip(plain, checkpointed, strict=True):
        assert a is not None and torch.equal(a, b)


@torch.no_grad()
def test_cached_greedy_decoding_equals_full_recomputation(pair):
    plora = pair[1]
    ids, mask = sequence()
    with speech_positions(mask):
        cached = plora.generate(input_ids=ids, max_new_tokens=6, do_sample=False, eos_token_id=None)
        full = ids
        for _ in range(6):
            step = logits(plora, full, nn.functional.pad(mask, (0, full.shape[1] - mask.shape[1])))[:, -1]
            full = torch.cat([full, step.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(cached, full)


DECODING = {"sampled": dict(do_sample=True, num_return_sequences=2), "beams": dict(do_sample=False, num_beams=3),
            "sampled beams": dict(do_sample=True, num_beams=3)}


@pytest.mark.parametrize("how", DECODING)
@torch.no_grad()
def test_decoding_with_cache_equals_decoding_without(pair, how):
    plora = pair[1]
    ids, mask = sequence()
    found = []
    for use_cache in (True, False):
        torch.manual_seed(11)
        with speech_positions(mask):
            found.append(plora.generate(input_ids=ids, max_new_tokens=6, use_cache=use_cache, eos_token_id=None,
                                        **DECODING[how]))
    assert torch.equal(*found)


@torch.no_grad()
def test_decoding_in_a_padded_mixed_batch_equals_decoding_alone(pair):
    plora = pair[1]
    ids, mask = sequence()
    embeddings = plora.get_base_model().get_input_embeddings()
    lengths = [9, 7, 6]
    attention = torch.arange(9) >= 9 - torch.tensor(lengths)[:, None]
    padded, speech = torch.zeros_like(ids), torch.zeros_like(mask)
    options = dict(max_new_tokens=5, do_sample=False, eos_token_id=None)
    alone = []
    for row, length in enumerate(lengths):
        padded[row, 9 - length:], speech[row, 9 - length:] = ids[row, :length], mask[row, :length]
        with speech_positions(mask[row:row + 1, :length]):
            alone.append(plora.generate(inputs_embeds=embeddings(ids[row:row + 1, :length]), **options))
    with speech_positions(speech):
        together = plora.generate(inputs_embeds=embeddings(padded), attention_mask=attention.long(), **options)
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("left, right", [(4, 0), (0, 4), (3, 2)])
@torch.no_grad()
def test_padding_changes_nothing(pair, left, right):
    base, plora = pair
    ids, mask = sequence()
    expected = logits(plora, ids, mask)
    pads = (left, right)
    attention = nn.functional.pad(torch.ones_like(ids), pads)
    inputs = dict(input_ids=nn.functional.pad(ids, pads), attention_mask=attention,
                  position_ids=(attention.cumsum(1) - 1).clamp(min=0))
    with speech_positions(nn.functional.pad(mask, pads)):
        padded = plora(**inputs).logits
    torch.testing.assert_close(padded[:, left:left + ids.shape[1]], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(padded[2], base(**inputs).logits[2])  # the text-only row, padding included


@torch.no_grad()
def test_a_mask_for_another_number_of_rows_is_an_error():
    ids, mask = sequence()
    with pytest.raises(ModelError, match="3 sequences.*2 rows"):
        logits(with_plora(base_model()), ids, mask[:2])


@torch.no_grad()
def test_chunked_prefill_finds_its_stretch_of_the_mask(pair):
    plora = pair[1]
    ids, mask = sequence()
    expected = logits(plora, ids, mask)
    with speech_positions(mask):
        first = plora(input_ids=ids[:, :5], use_cache=True)
        cache = find_cache(first.values())
        second = plora(input_ids=ids[:, 5:], **cache_argument(plora.get_base_model(), cache))
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("implementation", ["dynamic", "static"])
@torch.no_grad()
def test_what_is_generated_behind_speech_at_the_very_beginning_is_text(pair, implementation):
    plora = pair[1]
    ids, _ = sequence()
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[:, :7] = True  # no prefix: a step that took its mask from position 0 would be taken for speech
    with speech_positions(mask):
        options = dict(max_new_tokens=6, do_sample=False, eos_token_id=None, disable_compile=True)
        cached = plora.generate(input_ids=ids, cache_implementation=implementation, **options)
        assert torch.equal(cached, plora.generate(input_ids=ids, use_cache=False, **options))


@torch.no_grad()
def test_an_exception_inside_a_call_leaves_nothing_behind():
    base = base_model()
    plora = with_plora(copy.deepcopy(base))
    ids, mask = sequence()
    with pytest.raises(RuntimeError), speech_positions(mask):
        plora(input_ids=ids, position_ids=torch.zeros(1, 2, dtype=torch.int64))
    assert torch.equal(logits(plora, ids), logits(base, ids))


@pytest.mark.parametrize("way", ["merge_and_unload", "merge_adapter"])
def test_merging_is_refused_with_a_reason(way):
    with pytest.raises(ModelError, match="speech positions only"):
        getattr(with_plora(base_model()), way)()


@torch.no_grad()
def test_unloading_gives_the_base_model_back(pair):
    base, plora = pair
    ids, mask = sequence()
    unloaded = plora.unload()
    assert not any(isinstance(module, PLoraLinear) for module in unloaded.modules())
    assert torch.equal(logits(unloaded, ids, mask), logits(base, ids))


def test_saves_and_loads_in_pefts_format(tmp_path, pair):
    base, plora = pair
    fresh = with_plora(copy.deepcopy(base), seed=7)
    plora.save_pretrained(tmp_path)
    load_plora(fresh, tmp_path)
    ids, mask = sequence()
    with torch.no_grad():
        assert torch.equal(logits(fresh, ids, mask), logits(plora, ids, mask))
    theirs = PeftModel.from_pretrained(base, tmp_path).state_dict()
    ours = plora.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_weights_for_other_layers_are_an_error(tmp_path):
    with_plora(base_model()).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"{tmp_path}.*other layers"):
        load_plora(add_plora(base_model(), 4, 8.0, 0.0, "q_proj,v_proj"), tmp_path)


def test_an_llm_with_more_layers_is_refused(tmp_path):
    with_plora(base_model()).save_pretrained(tmp_path)
    deeper = AutoModelForCausalLM.from_config(LlamaConfig(**{**SIZES, "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match="holds no weights for .* places of this LLM"):
        load_plora(with_plora(deeper), tmp_path)


def test_targets_that_match_nothing_are_an_error():
    with pytest.raises(ModelError, match="no_such_layer"):
        add_plora(base_model(), 4, 8.0, 0.0, "no_such_layer")


def test_all_linear_leaves_the_output_head_alone():
    plora = with_plora(base_model())
    assert not isinstance(plora.get_base_model().lm_head, PLoraLinear)
    assert isinstance(plora.get_base_model().model.layers[1].mlp.down_proj, PLoraLinear)

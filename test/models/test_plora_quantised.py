"""PLoRA on an LLM in 4 or 8 bits (bitsandbytes): the same layer, on top of the quantised one."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from blspkd.errors import ModelError
from blspkd.models.plora import PLoraLinear, add_plora, checkpoint_context, speech_positions

bitsandbytes = pytest.importorskip("bitsandbytes")

BITS = {4: (dict(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32), bitsandbytes.nn.Linear4bit),
        8: (dict(load_in_8bit=True), bitsandbytes.nn.Linear8bitLt)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("llm")
    config = LlamaConfig(vocab_size=61, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, initializer_range=0.1, pad_token_id=0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(params=BITS)
def pair(request, folder):
    """A quantised LLM and the same one with random PLoRA weights."""
    options, layer_class = BITS[request.param]
    llm = AutoModelForCausalLM.from_pretrained(folder, quantization_config=BitsAndBytesConfig(**options),
                                               device_map="cpu")
    plora = add_plora(copy.deepcopy(llm), 4, 8.0, 0.0, "all-linear")
    layer = plora.get_base_model().model.layers[0].mlp.down_proj
    assert isinstance(layer, PLoraLinear) and isinstance(layer.base_layer, layer_class)
    for name, parameter in plora.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return llm, plora


def batch():
    torch.manual_seed(0)
    mask = torch.zeros(3, 9, dtype=torch.bool)
    mask[0, 3:6] = mask[1, 2:7] = True
    return torch.randint(3, 61, (3, 9)), mask


@torch.no_grad()
def test_text_is_the_quantised_model_bit_for_bit_and_speech_is_not(pair):
    base, plora = pair
    ids, mask = batch()
    expected = base(input_ids=ids).logits
    assert torch.equal(plora(input_ids=ids).logits, expected)
    with speech_positions(mask):
        found = plora(input_ids=ids).logits
    if isinstance(base.get_submodule("model.layers.0.mlp.down_proj"), bitsandbytes.nn.Linear4bit):
        # in 8 bits the outliers of one row change how every row of the batch is rounded, PLoRA or not
        assert torch.equal(found[2], expected[2]) and torch.equal(found[0, :3], expected[0, :3])
    assert (found[0, 3:] - expected[0, 3:]).abs().max() > 1e-2


@torch.no_grad()
def test_a_layer_equals_lora_times_the_mask(pair):
    ids, mask = batch()
    layer = pair[1].get_base_model().model.layers[1].self_attn.v_proj
    seen = {}
    layer.register_forward_hook(lambda module, args, output: seen.update(x=args[0], y=output))
    with speech_positions(mask):
        pair[1](input_ids=ids)
    update = layer.lora_B["default"](layer.lora_A["default"](seen["x"])) * layer.scaling["default"]
    torch.testing.assert_close(seen["y"], layer.base_layer(seen["x"]) + mask[..., None] * update)


def gradients(plora, checkpointing):
    plora = copy.deepcopy(plora).train()
    if checkpointing:
        plora.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": checkpoint_context})
    ids, mask = batch()
    embeddings = plora.get_base_model().get_input_embeddings()(ids).detach().requires_grad_()
    with speech_positions(mask):
        plora(inputs_embeds=embeddings, use_cache=False).logits.pow(2).mean().backward()
    return [p.grad for name, p in plora.named_parameters() if "lora_" in name] + [embeddings.grad]


def test_gradients_flow_with_and_without_checkpointing(pair):
    for plain, checkpointed in zip(gradients(pair[1], False), gradients(pair[1], True), strict=True):
        assert plain.any() and plain.isfinite().all() and torch.equal(plain, checkpointed)


def test_merging_is_refused(pair):
    with pytest.raises(ModelError, match="speech positions only"):
        pair[1].merge_and_unload()

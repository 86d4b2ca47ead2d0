"""PLoRA in training: gradients against a plain reference, checkpointing, and what it keeps and computes."""

import pytest
import torch
from peft import LoraConfig
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from blspkd.errors import ModelError
from blspkd.models.plora import PLoraLinear, _Running, add_plora, checkpoint_context, speech_positions

RANK = 4


def model(**changes):
    """A random Llama with PLoRA, random B included."""
    torch.manual_seed(3)
    sizes = dict(vocab_size=61, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, initializer_range=0.3, pad_token_id=0) | changes
    plora = add_plora(LlamaForCausalLM(LlamaConfig(**sizes)), RANK, 8.0, 0.0, "all-linear")
    for name, parameter in plora.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return plora.train()


def batch(rows=3, length=9):
    torch.manual_seed(0)
    mask = torch.zeros(rows, length, dtype=torch.bool)
    mask[0, 3:6] = mask[1, 2:7] = True  # the last row is text only
    return torch.randint(3, 61, (rows, length)), mask


def lora_gradients(plora):
    return {name: p.grad for name, p in plora.named_parameters() if "lora_" in name}


def loss(plora, mask):
    with speech_positions(mask):
        return plora(input_ids=batch()[0], use_cache=False).logits.pow(2).mean()


class MaskedLora(nn.Module):
    """The definition: y = W x + m * (alpha / r) B A x, computed everywhere."""

    def __init__(self, layer, mask):
        super().__init__()
        self.layer, self.mask = layer, mask

    def forward(self, x):
        layer = self.layer
        update = layer.lora_B["default"](layer.lora_A["default"](x)) * layer.scaling["default"]
        return layer.base_layer(x) + self.mask[..., None] * update


def test_gradients_are_those_of_the_definition():
    ids, mask = batch()
    plora = model(attention_bias=True, mlp_bias=True).double()
    embeddings = plora.get_base_model().get_input_embeddings()(ids).detach().requires_grad_()

    def backward():
        plora.zero_grad()
        embeddings.grad = None
        with speech_positions(mask):
            plora(inputs_embeds=embeddings, use_cache=False).logits.pow(2).mean().backward()
        return lora_gradients(plora) | {"embeddings": embeddings.grad}

    found = {name.replace(".layer.", "."): gradient.clone() for name, gradient in backward().items()}
    for name, module in list(plora.named_modules()):
        if isinstance(module, PLoraLinear):
            parent, _, child = name.rpartition(".")
            setattr(plora.get_submodule(parent), child, MaskedLora(module, mask))
    expected = {name.replace("_proj.layer.", "_proj."): gradient for name, gradient in backward().items()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-12, rtol=1e-9)


def layer_and_input(layer_class=nn.Linear):
    torch.manual_seed(1)
    config = LoraConfig(r=2, init_lora_weights=False)
    return PLoraLinear(layer_class(3, 3), "default", config, r=2), torch.randn(2, 4, 3, requires_grad=True)


def test_second_derivatives():
    layer, x = layer_and_input()
    layer, x = layer.double(), x.detach().double().requires_grad_()

    def function(x):
        with _Running(torch.tensor([1, 6])):
            return layer(x).sin()

    assert torch.autograd.gradgradcheck(function, (x,))


def test_the_result_may_be_changed_in_place_afterwards():
    layer, x = layer_and_input()
    gradients = []
    for double in (torch.Tensor.mul_, torch.Tensor.mul):
        with _Running(torch.tensor([1, 6])):
            double(layer(x), 2.0).pow(2).sum().backward()
        gradients.append(x.grad)
        x.grad = None
    assert torch.equal(*gradients)


class Exponential(nn.Linear):
    """A layer that needs its own output for its backward pass."""

    def forward(self, x):
        return super().forward(x).exp()


def test_a_layer_that_keeps_its_result_is_noticed():
    layer, x = layer_and_input(Exponential)
    with _Running(torch.tensor([1, 6])), pytest.raises(RuntimeError, match="inplace operation"):
        layer(x).sum().backward()


def test_a_batch_without_speech_gives_zero_gradients_not_none():
    plora = model()
    loss(plora, torch.zeros_like(batch()[1])).backward()
    assert all(g is not None and not g.any() for g in lora_gradients(plora).values())


def test_two_backward_passes_through_checkpointing():
    plora = model()
    plora.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": checkpoint_context})
    value = loss(plora, batch()[1])
    value.backward(retain_graph=True)
    once = {name: gradient.clone() for name, gradient in lora_gradients(plora).items()}
    value.backward()
    for name, gradient in lora_gradients(plora).items():
        torch.testing.assert_close(gradient, 2 * once[name])


def by_peft(plora):
    plora.gradient_checkpointing_enable({"use_reentrant": True})


def by_base_model(plora):
    plora.get_base_model().gradient_checkpointing_enable({"use_reentrant": True})


def without_context(plora):
    plora.gradient_checkpointing_enable({"use_reentrant": False})


def by_hand(plora):
    for layer in plora.get_base_model().model.layers:
        forward = layer.forward
        layer.forward = lambda hidden, _forward=forward, **kwargs: checkpoint(
            lambda x: _forward(x, **kwargs), hidden, use_reentrant=True)


@pytest.mark.parametrize("enable", [by_peft, by_base_model, without_context, by_hand])
def test_checkpointing_that_would_lose_gradients_is_refused(enable):
    plora = model()
    plora.enable_input_require_grads()
    enable(plora)
    with pytest.raises(ModelError, match="use_reentrant.*False.*checkpoint_context"):
        loss(plora, batch()[1])
    with torch.no_grad():
        loss(plora, batch()[1])  # nothing is recomputed: nothing to refuse
    plora(input_ids=batch()[0])  # nor without speech


class WithSpeech(nn.Module):
    """What a Trainer is given: the model and its mask."""

    def __init__(self, plora):
        super().__init__()
        self.plora = plora

    def gradient_checkpointing_enable(self, *args, **kwargs):
        self.plora.gradient_checkpointing_enable(*args, **kwargs)

    def forward(self, input_ids, labels):
        return {"loss": loss(self.plora, batch()[1])}


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_trainer_that_turns_checkpointing_on_is_refused(tmp_path, reentrant):
    arguments = TrainingArguments(output_dir=str(tmp_path), max_steps=1, report_to=[], use_cpu=True, disable_tqdm=True,
                                  gradient_checkpointing=True,
                                  gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    data = [{"input_ids": [3], "labels": [3]}]
    with pytest.raises(ModelError, match="use_reentrant"):
        Trainer(model=WithSpeech(model()), args=arguments, train_dataset=data).train()


def saved_bytes(run):
    """What autograd keeps for the backward pass of run(), each storage once, parameters left out."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = run()
    del kept
    return storages


@pytest.mark.parametrize("llm, autocast", [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)])
def test_keeps_one_gathered_input_for_several_layers_and_no_updates(llm, autocast):
    plora = model(num_hidden_layers=1)
    for name, p in plora.named_parameters():
        p.data = p if "lora_" in name else p.to(llm)
    ids, mask = batch()
    own = {p.untyped_storage().data_ptr() for p in plora.parameters()}

    def kept(mask):
        embeddings = plora.get_base_model().get_input_embeddings()(ids).requires_grad_()
        with speech_positions(mask), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            storages = saved_bytes(lambda: plora(inputs_embeds=embeddings, use_cache=False).logits)
        return sum(size for address, size in storages.items() if address not in own)

    speech = int(mask.sum())
    gathered = 32 + 32 + 32 + 40  # the inputs of q, k, v; of o; of gate, up; of down
    number, index = (2 if autocast else 4), 8  # bytes
    assert kept(mask) - kept(torch.zeros_like(mask)) == speech * (number * (gathered + 7 * RANK) + index)


def test_nothing_is_computed_at_text_positions():
    plora = model()
    ids, mask = batch()

    def flops(mask):
        with FlopCounterMode(display=False) as counter:
            loss(plora, mask).backward()
        return counter.get_total_flops()

    layers = [module for module in plora.modules() if isinstance(module, PLoraLinear)]
    widths = sum(layer.in_features + layer.out_features for layer in layers)
    expected = 3 * 2 * int(mask.sum()) * RANK * widths  # forward, and the gradients of input and weight
    first = layers[:3]  # the first layer's input needs no gradient here
    expected -= 2 * int(mask.sum()) * RANK * sum(layer.in_features for layer in first)
    assert flops(mask) - flops(torch.zeros_like(mask)) == expected

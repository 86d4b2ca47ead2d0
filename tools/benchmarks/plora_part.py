"""PLoRA against plainer ways to the same result: one forward and backward pass of a Llama, a quarter of it speech.

The peers share one model and its weights with ours; only the layers' forward differs:

    plain         LoRA at every position, then multiplied by the mask
    bool-mask     the rows are taken and put back by a boolean mask, layer by layer
    shared-index  rows taken once for all layers that read the same input, by one int64 index, added by `index_add`
    base          no LoRA at all: what PLoRA costs
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodType

import torch
from measure import MIB, Row, extra_peak_mib, row, take_turns
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from blspkd.models.plora import PLoraLinear, add_plora, speech_positions

RANK, SPEECH = 16, 0.25
Update = Callable[[PLoraLinear, Tensor, Tensor], Tensor]  # layer, its input, its base layer's result -> result


def lora(layer: PLoraLinear, x: Tensor) -> Tensor:
    return layer.lora_B["default"](layer.lora_A["default"](x.float())) * layer.scaling["default"]


def plain(mask: Tensor) -> Update:
    return lambda layer, x, result: result + (mask[..., None] * lora(layer, x)).to(result.dtype)


def bool_mask(mask: Tensor) -> Update:
    def update(layer: PLoraLinear, x: Tensor, result: Tensor) -> Tensor:
        result = result.clone()
        result[mask] += lora(layer, x[mask]).to(result.dtype)
        return result
    return update


def shared_index(mask: Tensor) -> Update:
    index, last = mask.flatten().nonzero().squeeze(1), [None, None]

    def update(layer: PLoraLinear, x: Tensor, result: Tensor) -> Tensor:
        if last[0] is not x:
            last[:] = x, x.flatten(0, 1).index_select(0, index)
        added = lora(layer, last[1]).to(result.dtype)
        return result.flatten(0, 1).index_add(0, index, added).view_as(result)
    return update


def base(mask: Tensor) -> Update:
    return lambda layer, x, result: result


PEERS = {"plain": plain, "bool-mask": bool_mask, "shared-index": shared_index, "base": base}


@contextmanager
def forward_by(layers: list[PLoraLinear], update: Update) -> Iterator[None]:
    """Within this block the layers compute in a peer's way."""
    for layer in layers:
        layer.forward = MethodType(lambda self, x: update(self, x, self.base_layer(x)), layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


class Job:
    """A Llama with random PLoRA weights and one batch."""

    def __init__(self, device: str, width: int, depth: int, rows: int, length: int):
        torch.manual_seed(0)
        config = LlamaConfig(vocab_size=1000, hidden_size=width, intermediate_size=width * 11 // 4 // 8 * 8,
                             num_hidden_layers=depth, num_attention_heads=width // 64)
        llm = LlamaForCausalLM(config).to(device, torch.bfloat16 if device == "cuda" else torch.float32)
        self.plora = add_plora(llm, RANK, 2.0 * RANK, 0.0, "all-linear").train()
        self.backbone = self.plora.get_base_model().model
        self.layers = [module for module in self.backbone.modules() if isinstance(module, PLoraLinear)]
        for layer in self.layers:
            nn.init.normal_(layer.lora_B["default"].weight, std=0.05)
        self.embeddings = torch.randn(rows, length, width, device=device, dtype=llm.dtype).requires_grad_()
        self.direction = torch.randn_like(self.embeddings)  # the gradient that comes back to the last hidden states
        speech = round(SPEECH * length)
        positions, starts = torch.arange(length), torch.randint(0, length - speech, (rows, 1))
        self.mask = (positions >= starts) & (positions < starts + speech)
        self.own = {p.untyped_storage().data_ptr() for p in self.plora.parameters()}

    def forward(self, peer: str) -> Tensor:
        if peer == "ours":
            with speech_positions(self.mask):
                return self.backbone(inputs_embeds=self.embeddings, use_cache=False).last_hidden_state
        with forward_by(self.layers, PEERS[peer](self.mask.to(self.embeddings.device))):
            return self.backbone(inputs_embeds=self.embeddings, use_cache=False).last_hidden_state

    def gradients(self, peer: str) -> list[Tensor]:
        """Of the embeddings and, but for "base", of PLoRA's weights; none is left behind."""
        hidden = self.forward(peer)
        wanted = [self.embeddings] + [p for p in self.plora.parameters() if p.requires_grad and peer != "base"]
        return [hidden.detach(), *torch.autograd.grad((hidden * self.direction).float().sum(), wanted)]

    def saved_mib(self, peer: str) -> float:
        """What autograd keeps between forward and backward, each storage once, without the weights."""
        storages = {}

        def pack(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            hidden = self.forward(peer)  # alive while counted: no storage is used twice
        del hidden
        return sum(size for address, size in storages.items() if address not in self.own) / MIB


def run(device: str, quick: bool = False) -> list[Row]:
    """Rows of the part "plora": time and peak of a pass, and what is saved for the backward pass."""
    sizes = (128, 2, 4, 64) if quick else (4096, 4, 8, 512) if device == "cuda" else (512, 2, 4, 256)
    job = Job(device, *sizes)
    case = "d={} layers={} B={} L={}".format(*sizes) + f" {SPEECH:.0%} speech"
    names = ["ours", *PEERS]
    results = {name: job.gradients(name) for name in names}
    differences = {name: max((a - b).abs().max().item() for a, b in zip(results["ours"], results[name], strict=True))
                   for name in names if name != "base"}
    steps = {name: partial(job.gradients, name) for name in names}
    turns = take_turns(steps, device, turns=3 if quick else 11)
    peaks = {name: extra_peak_mib(step, device) for name, step in steps.items()}
    saved = {name: job.saved_mib(name) for name in names}
    rows = []
    for peer in PEERS:
        note = f"saved activations {saved['ours']:.1f} MiB, {saved['ours'] / saved[peer]:.2f}x of the peer's"
        rows.append(row("plora", case, peer, turns, peaks, differences.get(peer), note=note))
        rows.append(Row("plora", f"saved activations, {case}", peer, ours_peak_mib=saved["ours"],
                        peer_peak_mib=saved[peer], note="kept from forward to backward"))
    return rows

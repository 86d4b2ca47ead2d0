"""Partial LoRA (PLoRA; arXiv 2405.19041, section 3.3): low-rank updates at speech positions only.

y = W x + m * (alpha / r) B A x, with m = 1 at speech positions and 0 elsewhere. It is peft's LoRA with another forward:
peft's configuration, peft's files. Which positions are speech travels with the call, in a context variable: nothing is
left on a module, threads do not see each other's calls, and what is text is never touched, nor computed.

    llm = add_plora(llm, rank=16, ...)
    with speech_positions(mask):      # [B, L] bool over all positions, also those still to be generated
        llm(inputs_embeds=...)        # or llm.generate(...)
    llm(input_ids=...)                # outside: the base LLM, bit for bit
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor, nn

from blspkd.errors import ModelError
from blspkd.models.kv_cache import find_cache


class _Rows:
    """The speech rows of one forward call; q, k and v (and gate and up) read the same input, gathered once."""

    def __init__(self, index: Tensor):
        self.index = index  # [S] int64 into the [B * L] positions of the call
        self.training = torch.is_grad_enabled()
        self.last = (None, None, None, None)  # the last input, the type its rows were cast to, and what `take` returned

    def take(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """x: [B, L, C] -> x again, for the layer below, and its speech rows [S, C]"""
        if self.last[0] is not x or self.last[1] != dtype:
            index = self.index.to(x.device)  # layers may be on several devices
            same, speech = _TakeRows.apply(x, index) if self.training else (x, _rows_of(x, index))
            self.last = (x, dtype, same, speech.to(dtype))
        return self.last[2:]


class _TakeRows(torch.autograd.Function):
    """x and x[index]. Their gradients meet here: a gradient of `index_select` alone would be all of x, mostly zeros."""

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(index)
        return x.detach(), _rows_of(x, index)

    @staticmethod
    def backward(ctx, gradient: Tensor, speech: Tensor) -> tuple:
        index, = ctx.saved_tensors
        return gradient.reshape(-1, gradient.shape[-1]).index_add(0, index, speech).view_as(gradient), None


class _AddAtRows(torch.autograd.Function):
    """result[index] += update, in the memory of `result`, which comes fresh out of a linear layer.

    `index_add` would copy all of `result` and keep `update`; in place on a view, autograd would copy the gradient.
    Nobody else knows `result` yet. Had its layer kept it, the backward pass would raise: autograd counts versions.
    """

    @staticmethod
    def forward(ctx, result: Tensor, update: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        result = result.detach()  # the same memory and version counter, but no view for autograd
        return _add_at_rows(result, update, index)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        index, = ctx.saved_tensors
        return gradient, _rows_of(gradient, index), None


def _rows_of(x: Tensor, index: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).index_select(0, index)


def _add_at_rows(result: Tensor, update: Tensor, index: Tensor) -> Tensor:
    result.view(-1, result.shape[-1]).index_add_(0, index, update)
    return result


_MASK: ContextVar[Tensor | None] = ContextVar("speech mask of the sequence", default=None)
_ROWS: ContextVar[_Rows | None] = ContextVar("speech rows of the running forward call", default=None)


@contextmanager
def speech_positions(mask: Tensor) -> Iterator[None]:
    """Within this block PLoRA acts where `mask` [B, L] is True; L counts from the start of the sequence.

    Forward calls that go on from a KV cache find their own stretch of the mask; positions behind its end are text.
    Beams repeat the rows of the mask. A mask on the CPU costs no wait for the GPU.
    """
    token = _MASK.set(mask)
    try:
        yield
    finally:
        _MASK.reset(token)


class PLoraLinear(LoraLinear):
    """peft's LoRA linear layer, applied to the speech rows of the running call only.

    Of the layer below only the forward is used, so that bitsandbytes' quantised linear layers do as well.
    """

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        """x: [B, L, C] -> [B, L, C']"""
        rows = _ROWS.get()
        if rows is None or self.disable_adapters:
            return self.base_layer(x, *args, **kwargs)
        if rows.training and not torch.is_grad_enabled():
            raise ModelError(_REFUSED)  # inside a reentrant checkpoint, whoever made it
        autocast = torch.is_autocast_enabled(x.device.type)
        dtype = torch.get_autocast_dtype(x.device.type) if autocast else next(self.lora_A.parameters()).dtype
        x, speech = rows.take(x, dtype)
        result = self.base_layer(x, *args, **kwargs).contiguous()
        add = _AddAtRows.apply if rows.training else _add_at_rows  # without gradients its set-up is half of the time
        for adapter in self.active_adapters:
            if adapter in self.lora_A:
                low = self.lora_A[adapter](self.lora_dropout[adapter](speech)) * self.scaling[adapter]
                result = add(result, self.lora_B[adapter](low).to(result.dtype), rows.index.to(result.device))
        return result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused: merged weights would act on text as well."""
        raise ModelError("PLoRA cannot be merged into the LLM: it acts at speech positions only")


def add_plora(llm: nn.Module, rank: int, alpha: float, dropout: float, targets: str, everywhere: bool = False
              ) -> PeftModel:
    """Put PLoRA on the linear layers `targets` ("all-linear", or names separated by commas) of a causal LM.

    Its weights are float32 and trainable, everything else is frozen. With `everywhere` it is peft's own LoRA, at all
    positions of every call. Raises ModelError where nothing matches.
    """
    names = targets if targets == "all-linear" else [name.strip() for name in targets.split(",")]
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=names, task_type="CAUSAL_LM")
    if not everywhere:
        config._register_custom_module({nn.Linear: PLoraLinear})
    try:
        model = get_peft_model(llm, config)
    except ValueError as error:
        raise ModelError(f"plora_targets '{targets}': {error}") from None
    config.target_modules = sorted(config.target_modules)  # a set, and would be saved in an order of its own every time
    return model if everywhere else _prepare(model)


def save_plora(model: PeftModel, folder: Path) -> None:
    """Write the weights in peft's format, for `load_plora`.

    To peft alone they are LoRA at all positions. A key that it does not know makes it warn, with the key's name.
    """
    model.save_pretrained(folder)
    if not any(isinstance(module, PLoraLinear) for module in model.modules()):
        return
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"acts_at_speech_positions_only_see_README": True}
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    readme = folder / "README.md"
    _, metadata, _ = readme.read_text(encoding="utf-8").split("---\n", 2)  # and an empty form, of peft
    readme.write_text(f"---\n{metadata}---\n{_CARD}", encoding="utf-8")


_CARD = """
# Partial LoRA

These weights act at speech positions only; at text positions the LLM stays the original. peft alone reads them as plain
LoRA and **applies them at all positions**, for which they were not trained. Load the folder above this one instead:

```python
from blspkd import SpeechLLM
model = SpeechLLM.from_pretrained("exp/<tag>/model")
```

Or put them on an LLM with `add_plora` and `load_plora` of `blspkd.models.plora`, and call it within
`speech_positions(mask)`.
"""


def load_plora(model: PeftModel, folder: Path) -> None:
    """Load the weights that `save_plora` wrote into `folder` into the PLoRA of `model`."""
    loaded = set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))
    if loaded.unexpected_keys:
        raise ModelError(f"{folder}: holds weights for other layers, {loaded.unexpected_keys[0]} among them")
    lacking = [key for key in loaded.missing_keys if "lora_" in key]
    if lacking:
        raise ModelError(f"{folder}: holds no weights for {len(lacking)} places of this LLM, {lacking[0]} among them")


def checkpoint_context() -> tuple:
    """`context_fn` of non-reentrant gradient checkpointing: the recomputed forward sees the rows of the first one."""
    rows = _ROWS.get()
    return nullcontext(), nullcontext() if rows is None else _Running(rows.index)


class _Running:
    """Within this block the speech rows are those of `index` [S]; it can be entered again and again."""

    def __init__(self, index: Tensor):
        self.index = index

    def __enter__(self) -> None:
        self.token = _ROWS.set(_Rows(self.index))

    def __exit__(self, *exception) -> None:
        _ROWS.reset(self.token)


def _prepare(model: PeftModel) -> PeftModel:
    plain = [name for name, module in model.named_modules()
             if isinstance(module, LoraLayer) and not isinstance(module, PLoraLinear)]
    if plain:
        raise ModelError(f"PLoRA works on torch.nn.Linear layers and bitsandbytes' only, and {plain[0]} is none; name "
                         "others in plora_targets, or load the LLM without quantisation")
    backbone = model.get_base_model().base_model
    backbone.register_forward_pre_hook(_enter, with_kwargs=True)
    backbone.register_forward_hook(_leave, with_kwargs=True, always_call=True)
    return model


def _enter(module: nn.Module, args: tuple, kwargs: dict) -> None:
    """Before the LLM's layers run: find the speech rows among the positions of this very call."""
    mask = _MASK.get()
    rows = None
    if mask is not None:
        _check_checkpointing(module)
        inputs = kwargs.get("inputs_embeds")
        inputs = inputs if inputs is not None else kwargs.get("input_ids", args[0] if args else None)
        cache = find_cache([*args, *kwargs.values()])
        past = cache.get_seq_length() if cache is not None else 0
        here = mask[:, past:past + inputs.shape[1]]
        # Every position of the call is in the index's range, also those behind the mask's end: they are text.
        here = nn.functional.pad(here, (0, inputs.shape[1] - here.shape[1]))
        if len(inputs) % len(here):
            raise ModelError(f"{len(inputs)} sequences, but the mask of speech positions has {len(here)} rows")
        if len(here) != len(inputs):
            here = here.repeat_interleave(len(inputs) // len(here), dim=0)
        index = here.reshape(-1).nonzero().squeeze(1)
        if len(index) or torch.is_grad_enabled():  # in training an empty index gives zero gradients, not none
            rows = _Rows(index.to(inputs.device, non_blocking=True))
    _ROWS.set(rows)


def _leave(module: nn.Module, args: tuple, kwargs: dict, output) -> None:
    _ROWS.set(None)


_REFUSED = ("PLoRA would lose its gradients under this gradient checkpointing; turn it on with "
            '{"use_reentrant": False, "context_fn": blspkd.models.plora.checkpoint_context}')


def _check_checkpointing(llm: nn.Module) -> None:
    """Refuse checkpoints that would recompute a layer without knowing its speech rows, whoever turned them on."""
    if not (llm.training and torch.is_grad_enabled()):
        return
    for module in llm.modules():
        if getattr(module, "gradient_checkpointing", False):
            options = getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", {})
            if options.get("use_reentrant", True) or options.get("context_fn") is not checkpoint_context:
                raise ModelError(_REFUSED)

"""The base LLM: loaded here and nowhere else, told from other models, and put on a device."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from blspkd.data.pretrained import load_pretrained, pinned, split_revision
from blspkd.data.prompts import check_model_path
from blspkd.errors import ConfigError, ModelError
from blspkd.model_files import model_digests


def load_llm(name: str, dtype: str = "float32", attn_implementation: str | None = None, device_map: Any = None
             ) -> PreTrainedModel:
    """The causal LM `name` (Hugging Face id or folder): frozen, evaluating, without dropout. Raises ModelError.

    attn_implementation: None lets transformers choose; device_map: spreads it over devices (accelerate), e.g. "auto".
    """
    check_model_path(name, "LLM")
    try:
        config = load_pretrained(AutoConfig, name)
        for key, value in list(vars(config).items()):
            if "drop" in key and isinstance(value, float):
                setattr(config, key, 0.0)  # teacher and student must be the same function
        llm = load_pretrained(AutoModelForCausalLM, name, config=config, dtype=getattr(torch, dtype),
                              attn_implementation=attn_implementation,
                              **({} if device_map is None else {"device_map": device_map}))
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise ModelError(f"{name}: this LLM cannot be loaded ({_first_line(error)}); name a folder with a saved causal "
                         "LM, or a Hugging Face id that is in the local cache or can be downloaded") from None
    return llm.eval().requires_grad_(False)


def generation_config(name: str) -> GenerationConfig:
    """As the LLM `name` itself has it, when it is loaded."""
    try:
        return load_pretrained(GenerationConfig, name)
    except OSError:  # it ships none
        return GenerationConfig.from_model_config(load_pretrained(AutoConfig, name))


@torch.no_grad()
def check_head(llm: nn.Module, name: str) -> None:
    """The losses compute logits as h W^T + b from the last hidden state: make sure that this is all there is."""
    ids = torch.tensor([[0, 1]], device=next(llm.parameters()).device)
    head = llm.get_output_embeddings()
    expected = llm(input_ids=ids, use_cache=False).logits.float()
    found = head(llm.base_model(input_ids=ids, use_cache=False).last_hidden_state).float()
    if not torch.allclose(expected, found, rtol=1e-3, atol=1e-3):
        raise ModelError(f"{name}: its logits are not a linear function of its last hidden state (soft-capped or "
                         "scaled logits are not supported)")


def pin(name: str, what: str) -> str:
    """The model `name` as it is now: a folder, or `id@commit` on the hub. Raises ModelError for a missing folder.

    An id that cannot be found stays as it is: loading it says why.
    """
    check_model_path(name, what)
    with suppress(OSError, ValueError):
        return pinned(name)
    return name


def model_identity(name: str) -> dict[str, str]:
    """What tells a model from others: a folder's contents (file name -> digest), or id and commit on the hub."""
    check_model_path(name, "LLM")
    if Path(name).is_dir():
        return model_digests(Path(name))
    try:
        model, commit = split_revision(pinned(name))
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: no such folder, and as a Hugging Face id it cannot be loaded "
                         f"({_first_line(error)}); correct the name, or download the model first and name its "
                         "folder") from None
    return {"id": model, "revision": str(commit)}


def choose_device(name: str = "auto", job: int = 1) -> str:
    """"auto": the GPU of this job (jobs take turns over the visible ones), or "cpu" where there is none.

    Raises ConfigError for a device that is not there.
    """
    if name == "auto":
        return f"cuda:{(job - 1) % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled with CUDA
        raise ConfigError(f"device: '{name}' cannot be used ({_first_line(error)}); try auto or cpu") from None
    return name


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]

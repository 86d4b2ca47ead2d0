"""An LLM's embedding table without the LLM, for a training that never runs it (an alignment, training/phases.py)."""

import json
import logging
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.utils import cached_file

from blspkd.data.pretrained import split_revision, without_weights
from blspkd.models.base_models import load_llm

logger = logging.getLogger(__name__)
_INDEX, _WEIGHTS = "model.safetensors.index.json", "model.safetensors"


class EmbeddingTable(nn.Module):
    """Frozen input embeddings [V, D], to be asked for as a causal LM is."""

    def __init__(self, embeddings: nn.Module):
        super().__init__()
        self.embeddings = embeddings.requires_grad_(False)

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    @classmethod
    def from_pretrained(cls, name: str, dtype: str = "float32") -> "EmbeddingTable":
        """The table of the causal LM `name` (Hugging Face id or folder). Raises ModelError.

        It alone is read, where the LLM's class has plain embeddings and its weights are in safetensors; else the whole
        LLM is loaded once.
        """
        weight = _read(name)
        if weight is None:
            logger.info("%s: reading the whole LLM for its embedding table", name)
            return cls(load_llm(name, dtype).get_input_embeddings())
        return cls(nn.Embedding(*weight.shape, _weight=weight.to(getattr(torch, dtype))))


def _read(name: str) -> Tensor | None:
    """The weight [V, D]; None where it cannot be told which tensor that is."""
    try:
        llm = without_weights(AutoModelForCausalLM, name)
        table = llm.get_input_embeddings()
        if type(table) is not nn.Embedding:  # one that scales what it gives, say
            return None
        [place] = [path for path, module in llm.named_modules(remove_duplicate=False) if module is table][:1]
        for names in ([f"{place}.weight"], [f"{place}.weight".removeprefix(f"{llm.base_model_prefix}.")]):
            if (file := _file_of(name, names[0])) is not None:
                with safe_open(file, framework="pt") as tensors:
                    weight = tensors.get_tensor(names[0])
                return weight if weight.shape == table.weight.shape else None
    except (OSError, ValueError, KeyError, ImportError, SafetensorError):
        pass  # loading the whole LLM says what is wrong, if anything is
    return None


def _file_of(name: str, tensor: str) -> Path | None:
    """The file of the model that holds `tensor`."""
    name, revision = split_revision(name)
    index = cached_file(name, _INDEX, revision=revision, _raise_exceptions_for_missing_entries=False)
    if index is not None:
        shard = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].get(tensor)
        return shard and Path(cached_file(name, shard, revision=revision))
    file = cached_file(name, _WEIGHTS, revision=revision, _raise_exceptions_for_missing_entries=False)
    if file is None:
        return None
    with safe_open(file, framework="pt") as tensors:
        return Path(file) if tensor in tensors.keys() else None

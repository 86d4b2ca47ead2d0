"""A GGUF file of an LLM -> a Hugging Face folder in float32, which transformers itself can read but not save."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from blspkd.data.pretrained import load_pretrained
from blspkd.errors import ModelError
from blspkd.files import atomic_path


def convert(file: Path, folder: Path) -> None:
    """Write `folder`: weights, configuration, tokenizer with its chat template. Raises ModelError."""
    try:
        import gguf  # noqa: F401  # transformers reads the file with it
    except ImportError:
        raise ModelError(f"{file}: reading GGUF needs the package gguf; install the extra `pretrained`: "
                         "pip install 'blspkd[pretrained]'") from None
    where = {"name": str(file.parent), "gguf_file": file.name}
    try:
        tokenizer = load_pretrained(AutoTokenizer, **where)
        llm = load_pretrained(AutoModelForCausalLM, **where, dtype=torch.float32, **_dequantised())
    except Exception as error:  # gguf and transformers raise whatever they like for files that they do not know
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{file}: transformers cannot read this GGUF file ({reason}); take the model's Hugging Face "
                         "folder or id instead") from None
    # It was quantised and no longer is: else it counts as what cannot be saved.
    llm.hf_quantizer, llm.is_quantized = None, False
    if hasattr(llm.config, "quantization_config"):
        del llm.config.quantization_config
    with atomic_path(folder) as temporary:
        llm.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def _dequantised() -> dict:
    """What asks transformers for plain weights, where it has to be asked."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}

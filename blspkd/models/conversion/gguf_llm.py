"""A GGUF file of an LLM -> a Hugging Face folder in float32, which transformers itself can read but not save."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from blspkd.data.pretrained import load_pretrained
from blspkd.errors import ModelError
from blspkd.files import atomic_path

# follow from the configuration
_COMPUTED = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}


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
        llm, loaded = load_pretrained(AutoModelForCausalLM, **where, dtype=torch.float32, output_loading_info=True,
                                      **_dequantised())
    except Exception as error:  # gguf and transformers raise whatever they like for files that they do not know
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{file}: transformers cannot read this GGUF file ({reason}); take the model's Hugging Face "
                         "folder or id instead") from None
    _check_complete(file, llm, sorted(loaded["missing_keys"]))
    # It was quantised and no longer is: else it counts as what cannot be saved.
    llm.hf_quantizer, llm.is_quantized = None, False
    if hasattr(llm.config, "quantization_config"):
        del llm.config.quantization_config
    with atomic_path(folder) as temporary:
        llm.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def _check_complete(file: Path, llm: PreTrainedModel, missing: list[str]) -> None:
    """Every number of the file is one of the model's and the other way round; experts may be stacked otherwise."""
    from gguf import GGUFReader

    ours = sum(parameter.numel() for parameter in llm.parameters())  # tied ones once
    theirs = sum(int(tensor.n_elements) for tensor in GGUFReader(file).tensors if tensor.name not in _COMPUTED)
    if missing or ours != theirs:
        what = f"{missing[0]} is missing" if missing else f"it has {theirs} numbers, the model takes {ours}"
        raise ModelError(f"{file}: not all of this LLM was read ({what}): the file is damaged, or transformers knows "
                         "this architecture otherwise; take the model's Hugging Face folder or id instead")


def _dequantised() -> dict:
    """What asks transformers for plain weights, where it has to be asked."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}

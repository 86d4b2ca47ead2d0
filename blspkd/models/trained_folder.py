"""The folder of a trained model as it is written: what was trained, and where it comes from (see model_folder.py)."""

from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from blspkd.config_file import save_config
from blspkd.files import atomic_path
from blspkd.models.base_records import write_base_models
from blspkd.models.huggingface.config import write_config
from blspkd.models.model_folder import SpeechLlmConfig

ADAPTER, ENCODER, PLORA = "adapter.safetensors", "speech_encoder.safetensors", "plora"


def write_trained(folder: str | Path, saved: SpeechLlmConfig, weights: Mapping[str, Mapping[str, Tensor]],
                  plora: Callable[[Path], None] | None) -> None:
    """Write a trained model into `folder`, whole or not at all; what stands there is replaced.

    weights: tensors by file, of which empty ones are left out; plora: writes peft's files into a folder, if there are
    any.
    """
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_config(saved, temporary / "config.yaml")
        write_base_models(temporary, Path(folder), saved.model)
        write_config(temporary)
        for name, tensors in weights.items():
            if tensors:
                save_file({key: value.detach().contiguous() for key, value in tensors.items()}, temporary / name)
        if plora:
            plora(temporary / PLORA)

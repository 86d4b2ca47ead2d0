"""Whether vLLM can serve a trained model: said before anything is loaded, and without torch."""

from pathlib import Path

from blspkd.errors import ModelError
from blspkd.models.model_folder import find_folder, read_config
from blspkd.vllm.process import find_interpreter


def check(name: str | Path, revision: str | None, python: str) -> None:
    """Raises ModelError for a model with PLoRA, and ConfigError where `python` is no interpreter that has vLLM."""
    model = read_config(find_folder(name, revision)).model
    if model.plora_rank:
        why = ("acts at speech positions only, which vLLM's adapters cannot" if model.plora_positions == "speech" else
               "vLLM would not be given")
        raise ModelError(f"{name}: has PLoRA (plora_rank: {model.plora_rank}), which {why}; serve it without "
                         "--engine vllm, or train a model with --plora_rank 0")
    find_interpreter(python, "--vllm_python")

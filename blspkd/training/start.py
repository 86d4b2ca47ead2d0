"""Start a training from a trained model: `training.init_from: exp/<tag>/model`.

Its adapter, and PLoRA and the speech encoder's layers where both models train them, are the weights before the first
step. What only one of the two trains starts as it does without `init_from`.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from peft import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from blspkd.config import ModelConfig
from blspkd.config_file import load_config
from blspkd.errors import ConfigError, ModelError
from blspkd.models.adapters import ADAPTERS, adapter_options
from blspkd.models.model_folder import SpeechLlmConfig
from blspkd.models.plora import load_plora
from blspkd.models.speech_llm import SpeechLlm

logger = logging.getLogger(__name__)
SAME = {"adapter": ("adapter",), "PLoRA": ("plora_alpha", "plora_positions")}  # no tensor shows them


def start_from(folder: str | Path, model: SpeechLlm) -> None:
    """Load the trained weights in `folder` (of `save_pretrained`) into `model`.

    Raises ModelError where there is no trained model, or one of another adapter, PLoRA or width; then nothing is
    loaded.
    """
    folder = Path(folder)
    if not (folder / "adapter.safetensors").is_file():
        raise ModelError(f"training.init_from: {folder}: there is no trained model here (no adapter.safetensors); "
                         "name the folder `model` of a finished stage 3")
    theirs, ours = load_config(SpeechLlmConfig, folder / "config.yaml").model, model.config
    loads = {"adapter": lambda tensors: model.adapter.load_state_dict(tensors)}
    weights = {"adapter": _read(folder / "adapter.safetensors")}
    wanted = {"adapter": model.adapter.state_dict()}
    if theirs.plora_rank and ours.plora_rank:
        weights["PLoRA"] = _read(folder / "plora" / "adapter_model.safetensors")
        wanted["PLoRA"] = get_peft_model_state_dict(model.llm)
        loads["PLoRA"] = lambda tensors: load_plora(model.llm, folder / "plora")
    if theirs.train_encoder and ours.train_encoder:
        trained = {name: value for name, value in model.encoder.named_parameters() if value.requires_grad}
        stored = _read(folder / "speech_encoder.safetensors")
        both = stored.keys() & trained.keys()  # they may train different numbers of layers
        weights["speech encoder"] = {name: stored[name] for name in both}
        wanted["speech encoder"] = {name: trained[name] for name in both}
        loads["speech encoder"] = lambda tensors: model.encoder.load_state_dict(tensors, strict=False)
    reasons = [reason for part in loads for reason in _differences(part, theirs, ours, weights[part], wanted[part])]
    if reasons:
        raise ModelError(f"training.init_from: {folder} ({_described(theirs)}) does not fit this training "
                         f"({_described(ours)}): {reasons[0]}")
    for part, load in loads.items():
        load(weights[part])
    logger.info("starting from %s: %s", folder, ", ".join(loads))
    for key, part in ("plora_rank", "PLoRA"), ("train_encoder", "speech encoder"):
        if getattr(theirs, key) and part not in loads:
            logger.warning("%s: its trained %s is left out, since model.%s is off here", folder, part, key)


def freeze(model: SpeechLlm, beginnings: Sequence[str]) -> None:
    """Train no parameters of the adapter whose names begin like one of these (`training.freeze_param`).

    Raises ConfigError for a beginning that no parameter has, and where nothing would be left to train.
    """
    names = [name for name, value in model.named_parameters() if value.requires_grad]
    for beginning in map(str, beginnings):
        if not any(name.startswith(beginning) for name in names if name.startswith("adapter.")):
            raise ConfigError(f"training.freeze_param: '{beginning}': no parameter of the adapter begins like this; "
                              f"they are named {names[0]} and so on")
    frozen = [name for name in names if name.startswith(tuple(beginnings))]
    if len(frozen) == len(names):
        raise ConfigError("training.freeze_param: nothing is left to train; name fewer parts")
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)


def _read(path: Path) -> dict[str, Tensor]:
    """Raises ModelError."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"training.init_from: {path}: cannot be read ({error})") from None


def _differences(part: str, theirs: ModelConfig, ours: ModelConfig, weights: dict[str, Tensor],
                 wanted: dict[str, Tensor]) -> list[str]:
    """Why the weights of a part do not fit, the plainest reason first."""
    reasons = [f"{key} was {getattr(theirs, key)} and is now {getattr(ours, key)}" for key in SAME.get(part, ())
               if getattr(theirs, key) != getattr(ours, key)]
    if part == "adapter" and not reasons:
        own, other = adapter_options(ours), adapter_options(theirs)
        reasons = [f"{key} was {getattr(other, key)} and is now {getattr(own, key)}" for key in vars(own)
                   if getattr(other, key) != getattr(own, key) and key not in ADAPTERS[ours.adapter].free]
    for name in sorted(weights.keys() | wanted.keys()):
        shapes = [" x ".join(map(str, tensors[name].shape)) if name in tensors else "not there"
                  for tensors in (weights, wanted)]
        if shapes[0] != shapes[1]:
            reasons.append(f"{part}: {name} was {shapes[0]} and is now {shapes[1]}")
    return reasons


def _described(config: ModelConfig) -> str:
    return f"adapter {config.adapter} between {config.speech_encoder} and {config.llm}"

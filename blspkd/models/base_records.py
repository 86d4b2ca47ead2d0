"""`base_models.json`, beside a trained model's `config.yaml`: which LLM and which speech encoder the training used.

A base model is written down by id and commit on the hub, or as a folder: relative to the trained model's, so that both
can be moved together, and absolute, so that the trained model can be moved alone. Digests of its files show whether
what stands there is still the same model.

Imports no torch.
"""

import json
import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from blspkd.config import ModelConfig
from blspkd.config_file import from_dict
from blspkd.data.pretrained import split_revision
from blspkd.errors import ConfigError, ModelError
from blspkd.files import atomic_write
from blspkd.model_files import model_digests

FILE = "base_models.json"
BASES = {"llm": "LLM", "speech_encoder": "speech encoder"}
# What transformers reads of a base model where it is there: added to a folder, it makes another model of it. Nothing
# else may be compared so: a full download has files beside those that were read and recorded.
READ_IF_THERE = {
    "llm": {"adapter_config.json", "generation_config.json", "chat_template.jinja", "tokenizer.json",
            "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"},
    "speech_encoder": {"adapter_config.json", "processor_config.json"},
}
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")


@dataclass
class BaseModel:
    """An entry of the file. An empty one tells nothing: the model was saved by an older version."""

    id: str = ""  # on the hub
    revision: str = ""  # its commit
    path: str = ""  # a folder, relative to the trained model's
    absolute: str = ""  # the same folder on the machine of the training
    files: dict[str, str] = field(default_factory=dict)  # name -> digest


@dataclass
class BaseModels:
    """The file."""

    llm: BaseModel = field(default_factory=BaseModel)
    speech_encoder: BaseModel = field(default_factory=BaseModel)

    @classmethod
    def read(cls, folder: Path) -> "BaseModels":
        """Of the trained model in `folder`; without the file, empty entries. Raises ModelError for a damaged one."""
        path = folder / FILE
        if not path.is_file():
            return cls()
        try:
            return from_dict(cls, json.loads(path.read_text(encoding="utf-8")), str(path))
        except ConfigError as error:
            raise ModelError(f"{error}; get the model again") from None
        except ValueError as error:
            raise ModelError(f"{path}: is not JSON ({error}); get the model again") from None

    def write(self, folder: Path) -> None:
        entries = {key: {name: value for name, value in entry.items() if value} for key, entry in asdict(self).items()}
        with atomic_write(folder / FILE) as file:
            json.dump(entries, file, indent=1, ensure_ascii=False)


def write_base_models(folder: Path, final: Path, config: ModelConfig) -> None:
    """Write base_models.json into `folder`, which will be renamed to `final`."""
    final = final.parent.resolve() / final.name
    BaseModels(*(_described(getattr(config, key), final) for key in BASES)).write(folder)


def digests_read(folder: Path) -> dict[str, str]:
    """Digests of the files that transformers reads of a model folder: weights in one format, and no code."""
    files = model_digests(folder)
    weights = {name for name in files if name.endswith((".safetensors", ".bin", ".pt"))}
    read = weights & {"model.safetensors"} or set(filter(_SHARD.fullmatch, weights)) or weights
    return {name: digest for name, digest in files.items()
            if name in read or not (name in weights or name.endswith(".py"))}


def cached_folder(model: str, revision: str | None) -> Path | None:
    """Where the hub's cache has what was downloaded of a model; None: nothing was."""
    from huggingface_hub import try_to_load_from_cache  # imported here: most models are folders

    file = try_to_load_from_cache(model, "config.json", revision=revision)
    return Path(file).parent if isinstance(file, str) else None


def _described(name: str, final: Path) -> BaseModel:
    """What is known of base model `name`, for a trained model at `final`."""
    model, revision = split_revision(name)
    if revision is not None:
        snapshot = cached_folder(model, revision)
        return BaseModel(model, revision, files=_digests(snapshot) if snapshot else {})
    place = Path(name).parent.resolve() / Path(name).name  # a link stays one: it may be moved along
    return BaseModel(path=os.path.relpath(place, final), absolute=str(place), files=_digests(place))


def _digests(folder: Path) -> dict[str, str]:
    """None where the folder has gone: a training continues without it, and its checkpoints must not fail."""
    with suppress(OSError):
        return digests_read(folder)
    return {}

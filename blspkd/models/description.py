"""What a trained model is, told without loading it: configuration files and headers of weights are enough.

Imports no torch, so that the answer comes at once.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

from blspkd.config import ModelConfig
from blspkd.errors import ModelError
from blspkd.files import read_json
from blspkd.model_files import LARGEST_HEADER
from blspkd.models.base_records import BASES
from blspkd.models.model_folder import base_folder, find_folder, locate_base_model, read_config

# What was trained -> its file, if it was.
WEIGHTS = {"adapter": "adapter.safetensors", "trained encoder": "speech_encoder.safetensors",
           "PLoRA": "plora/adapter_model.safetensors"}

FACTS = {"context": "reads {:,} tokens", "sampling_rate": "{:,} Hz", "window_seconds": "windows of {} s",
         "language": "knows {}"}  # about a base model -> how they are told


def describe(name: str, revision: str | None = None) -> dict:
    """Facts about a trained model, for JSON: its own weights, its base models, and under "problems" what is missing.

    Raises ModelError where there is no trained model, ConfigError for a configuration that cannot be used.
    """
    folder = find_folder(name, revision)
    saved = read_config(folder)
    problems: list[str] = []
    described = {
        "model": str(name), "folder": str(folder), "adapter": saved.model.adapter, "plora_rank": saved.model.plora_rank,
        "plora_positions": saved.model.plora_positions if saved.model.plora_rank else None,
        "instruction": saved.prompt.instruction, "tags": saved.prompt.tags,
        "trained": _trained(folder, saved.model, problems),
        "base_models": {key: _base_model(folder, saved.model, key, problems) for key in BASES},
    }
    return described | {"problems": problems}


def as_text(described: dict) -> str:
    """The same for people: a line for each part."""
    lines = [described["model"]]
    for key, base in described["base_models"].items():
        facts = [text.format(base[fact]) for fact, text in FACTS.items() if fact in base]
        lines.append(_line(BASES[key], ", ".join([f"{base['name']}: {_state(base)}", *facts])))
    for what, weights in described["trained"].items():
        details = {"adapter": f"{described['adapter']}, ",
                   "PLoRA": f"rank {described['plora_rank']}, at {described['plora_positions']} positions, "}
        lines.append(_line(what, f"{details.get(what, '')}{_weights_text(weights)}"))
    lines.append(_line("instruction", described["instruction"]))
    if described["tags"]:
        lines.append(_line("tags", "; ".join(f"{key}: {', '.join(values)}"
                                             for key, values in described["tags"].items())))
    return "\n".join(lines)


def weights_in(path: Path) -> tuple[int, set[str]]:
    """Parameters in a safetensors file, and their types, from its header. Raises ModelError for a file that was cut."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if 0 < length <= min(size, LARGEST_HEADER) else b""
    try:
        tensors = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        end = 8 + length + max(entry["data_offsets"][1] for entry in tensors)
        parameters = sum(math.prod(entry["shape"]) for entry in tensors)
        types = {entry["dtype"] for entry in tensors}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise ModelError(f"{path}: is not a whole safetensors file (its header cannot be read); get it again") from None
    if end != size:
        raise ModelError(f"{path}: is cut short or has grown: {size} bytes, its header says {end}; get it again")
    return parameters, types


def weights_of(folder: Path) -> dict:
    """{"parameters", "bytes", "dtype"} of a Hugging Face model folder. Raises ModelError where it is not whole."""
    files = list(_weight_files(folder))
    size = sum(path.stat().st_size for path in files)
    if files[0].suffix != ".safetensors":
        return {"parameters": None, "bytes": size, "dtype": "PyTorch's own format"}
    found = [weights_in(path) for path in files]
    return {"parameters": sum(number for number, _ in found), "bytes": size,
            "dtype": ", ".join(sorted(set().union(*(types for _, types in found))))}


def _trained(folder: Path, config: ModelConfig, problems: list[str]) -> dict[str, dict]:
    """What was trained, by name: {"parameters", "bytes", "dtype"}."""
    wanted = {"adapter": True, "trained encoder": config.train_encoder, "PLoRA": bool(config.plora_rank)}
    trained = {}
    for what in filter(wanted.get, WEIGHTS):
        path = folder / WEIGHTS[what]
        try:
            if not path.is_file():
                raise ModelError(f"{path}: is missing, and config.yaml says that it was trained; get the model again")
            parameters, types = weights_in(path)
            trained[what] = {"parameters": parameters, "bytes": path.stat().st_size, "dtype": ", ".join(sorted(types))}
        except ModelError as error:
            problems.append(str(error))
    return trained


def _base_model(folder: Path, config: ModelConfig, key: str, problems: list[str]) -> dict:
    """Facts about a base model; found: it is the one that the training used; whole: all its weights are here."""
    facts = {"name": getattr(config, key), "found": False, "whole": False}
    try:
        name = locate_base_model(folder, config, key)
        place = base_folder(name, download=False)
        is_here = place is not None and (Path(name).is_dir() or _is_complete(place))
        facts |= {"found": True, "downloaded": is_here}
        if not is_here:
            return facts
        facts |= {"folder": str(place), **_architecture(place), **_sound(place)}
        facts |= {**weights_of(place), "whole": True}
    except ModelError as error:
        problems.append(str(error))
    return facts


def _is_complete(folder: Path) -> bool:
    """Whether the weights were downloaded too; to be sure of a model's commit its configuration is, before them."""
    try:
        return bool(list(_weight_files(folder)))
    except ModelError:
        return False


def _weight_files(folder: Path) -> Iterator[Path]:
    """The weights of a model folder, as transformers chooses them. Raises ModelError where one is missing."""
    for whole in ("model.safetensors", "pytorch_model.bin"):
        if (folder / whole).is_file():
            yield folder / whole
            return
        shards = set((read_json(folder / f"{whole}.index.json").get("weight_map") or {}).values())
        if missing := sorted(name for name in shards if not (folder / str(name)).is_file()):
            raise ModelError(f"{folder / missing[0]}: is missing; get the model again")
        if shards:
            yield from (folder / name for name in sorted(shards))
            return
    raise ModelError(f"{folder}: has no weights (model.safetensors); get the model again")


def _architecture(folder: Path) -> dict:
    config = read_json(folder / "config.json")
    names = config.get("architectures") or [config.get("model_type", "unknown")]
    positions = config.get("max_position_embeddings")
    return {"architecture": str(names[0])} | ({"context": positions} if positions else {})


def _sound(folder: Path) -> dict:
    """Of a speech encoder: Hz, seconds of its window, and whether it knows English alone."""
    extractor = read_json(folder / "preprocessor_config.json")
    sound = {}
    if "sampling_rate" in extractor:
        sound["sampling_rate"] = extractor["sampling_rate"]
    if "chunk_length" in extractor:
        sound["window_seconds"] = extractor["chunk_length"]
    multilingual = read_json(folder / "generation_config.json").get("is_multilingual")
    if multilingual is not None:
        sound["language"] = "several" if multilingual else "English"
    return sound


def _line(what: str, text: str) -> str:
    return f"  {what:<16} {text}"


def _state(base: dict) -> str:
    if base["whole"]:
        return f"{base['architecture']}, {_weights_text(base)}"
    return "on the hub, to be downloaded" if base["found"] and not base["downloaded"] else "cannot be used"


def _weights_text(weights: dict) -> str:
    size = f"{weights['bytes'] / 1e6:,.1f} MB"
    if weights["parameters"] is None:
        return f"{size} in {weights['dtype']}"
    return f"{weights['parameters'] / 1e6:,.1f} M parameters in {weights['dtype']}, {size}"

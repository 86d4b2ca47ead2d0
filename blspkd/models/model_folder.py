"""The folder of a trained model, here or on the hub, and its base models found again, wherever either was moved.

Imports no torch: a command can look into a folder before it waits for that.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from blspkd.config import ModelConfig, TrainedPrompt
from blspkd.config_file import load_config, nearest, save_config
from blspkd.data.pretrained import pinned, split_revision
from blspkd.errors import ConfigError, ModelError
from blspkd.files import atomic_path
from blspkd.model_files import RECORDS
from blspkd.models.base_records import BASES, READ_IF_THERE, BaseModel, BaseModels, cached_folder, digests_read

# What is downloaded and copied: tensors and texts, nothing that could run.
LICENCES = ("*.md", "LICENSE*", "NOTICE*")
TEXTS = ("*.json", "*.jinja", "*.txt", "*.tiktoken", "*.model", "*.yaml", *LICENCES)
TRAINED = ("*.safetensors", *TEXTS)
BASE = ("model.safetensors", "model-*-of-*.safetensors", *TEXTS)
WRITTEN = {"config.yaml", "config.json", "base_models.json", "adapter.safetensors", "speech_encoder.safetensors",
           "plora/adapter_config.json", "plora/adapter_model.safetensors", "plora/README.md"}  # by `save_pretrained`
_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass
class SpeechLlmConfig:
    """config.yaml: what `SpeechLlm.save_pretrained` writes beside the weights."""

    model: ModelConfig
    prompt: TrainedPrompt


def find_folder(name: str | Path, revision: str | None = None) -> Path:
    """The folder of the trained model `name`: a folder, or an id on the hub, which is downloaded into the hub's cache.

    revision: of an id: branch, tag or commit. Raises ModelError, and ConfigError for a revision of a folder.
    """
    folder, name = Path(name), str(name)
    if folder.is_dir():
        if revision is not None:
            raise ConfigError(f"revision: {revision}: {name} is a folder, and only models on the hub have revisions; "
                              "leave it out")
        return folder
    if not _is_id(name):
        raise ModelError(f"{name}: there is no such folder; name the folder of a trained model (`model` in the "
                         "experiment's folder) or its Hugging Face id")
    try:
        folder = _download(name, revision, TRAINED)
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: there is no such folder, and as a Hugging Face id it cannot be downloaded "
                         f"({_first_line(error)}); correct the name or the revision, or name a folder") from None
    if not (folder / "config.yaml").is_file():
        raise ModelError(f"{name}: there is no trained model of blspkd in it (no config.yaml); name another one")
    return folder


def read_config(folder: Path) -> SpeechLlmConfig:
    """What `config.yaml` says. Raises ModelError where there is none, ConfigError for one that cannot be used."""
    if not (folder / "config.yaml").is_file():
        raise ModelError(f"{folder}: there is no trained model here (no config.yaml); run stage 3 first")
    return load_config(SpeechLlmConfig, folder / "config.yaml")


def check_replaceable(folder: Path) -> None:
    """A saved model takes the place of the whole folder: raises ModelError where that would lose anything else."""
    if not folder.is_dir():
        if folder.exists():
            raise ModelError(f"{folder}: is a file; name another folder")
        return
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name not in WRITTEN and (path.is_symlink() or not path.is_dir()):
            raise ModelError(f"{folder}: holds {name}, which would be lost: a saved model takes the place of the whole "
                             "folder; name another folder")


def locate_base_models(folder: Path, config: ModelConfig, base_models: Mapping[str, str | Path] | None = None
                       ) -> ModelConfig:
    """`config` of the trained model in `folder`, with its base models where they are now: folders, or `id@commit`.

    base_models: {"llm": ..., "speech_encoder": ...}, folders or ids, instead of where base_models.json says. They too
    must be the models that the training used, as far as that was recorded.

    Raises ModelError for base models that are missing or others, ConfigError for an unknown key.
    """
    given = dict(base_models or {})
    for key in given:
        if key not in BASES:
            raise ConfigError(f"base_models: unknown key '{key}'; {nearest(str(key), BASES)}")
    names, problems = {}, {}
    for key in BASES:
        try:
            names[key] = locate_base_model(folder, config, key, given.get(key))
        except ModelError as error:
            problems[key] = str(error)
    if problems:
        wanted = ", ".join(f'"{key}": ...' for key in problems)
        raise ModelError(f"{folder}: {', and '.join(problems.values())}; pass base_models={{{wanted}}} with the folder "
                         "or Hugging Face id of the very model that it was trained with")
    return replace(config, **names)


def locate_base_model(folder: Path, config: ModelConfig, key: str, given: str | Path | None = None) -> str:
    """The same for one of them, `key`. Raises ModelError that says why it is at none of the places."""
    record = getattr(BaseModels.read(folder), key)
    wrong = {}
    for name in _places(folder, record, getattr(config, key)) if given is None else [_given(record, given)]:
        wrong[name] = _problem(record, key, name)
        if not wrong[name]:
            return name
    raise ModelError(f"its {BASES[key]} is missing ({'; '.join(f'{name}: {why}' for name, why in wrong.items())})")


def base_folder(name: str, download: bool = True) -> Path | None:
    """The folder of base model `name`, as `locate_base_models` gives it.

    download: False gives what the hub's cache has already, None if that is nothing. Raises ModelError.
    """
    if Path(name).is_dir():
        return Path(name)
    model, revision = split_revision(name)
    try:
        return _download(model, revision, BASE) if download else cached_folder(model, revision)
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: cannot be downloaded ({_first_line(error)}); name a folder instead") from None


def copy_with_base_models(folder: Path, destination: Path,
                          base_models: Mapping[str, str | Path] | None = None) -> None:
    """Copy a trained model together with its base models, into destination/base/{llm,speech_encoder}.

    Only weights in safetensors, configurations, tokenizers and licences are copied. The copy names no place outside.
    base_models: see `locate_base_models`. Raises ModelError, and ConfigError where `destination` exists.
    """
    if destination.exists():
        raise ConfigError(f"{destination}: is there already; name a new folder")
    saved, records = read_config(folder), BaseModels.read(folder)
    located = locate_base_models(folder, saved.model, base_models)
    with atomic_path(destination) as temporary:
        for below in (".", "plora"):
            _copy(folder / below, temporary / below, _matching(folder / below, TRAINED))
        for key in BASES:
            name, record, path = getattr(located, key), getattr(records, key), f"base/{key}"
            files = _copy_base(base_folder(name), temporary / path)
            model, revision = (record.id, record.revision) if Path(name).is_dir() else split_revision(name)
            setattr(records, key, BaseModel(model, revision or "", path, files=files))
            setattr(saved.model, key, model or path)
        _name_llm(temporary / "plora", saved.model.llm)
        save_config(saved, temporary / "config.yaml")
        records.write(temporary)


def _places(folder: Path, record: BaseModel, said: str) -> list[str]:
    """Where a base model may be; said: its name in config.yaml."""
    if record == BaseModel():
        return [said]
    beside = os.path.normpath(folder.resolve() / record.path) if record.path else ""
    elsewhere = f"{record.id}@{record.revision}" if record.id else os.path.abspath(said)
    return list(dict.fromkeys(filter(None, (beside, record.absolute, elsewhere))))


def _given(record: BaseModel, name: str | Path) -> str:
    """A name by the user; the recorded id alone means the recorded commit."""
    return f"{name}@{record.revision}" if str(name) == record.id and record.revision else str(name)


def _problem(record: BaseModel, key: str, name: str) -> str:
    """Why `name` cannot be the recorded model; "": it is that one, or nothing was recorded."""
    if Path(name).is_dir():
        difference = record.files and _difference(record.files, digests_read(Path(name)), key)
        return f"another model, its {difference}" if difference else ""
    if not _is_id(name):
        return "there is no such folder"
    if record == BaseModel():
        return ""  # loading it says what is wrong, if anything is
    try:
        model, commit = split_revision(pinned(name))
        if not record.revision:
            return _problem(record, key, str(_download(model, commit, BASE)))
    except (OSError, ValueError) as error:
        return f"cannot be downloaded, {_first_line(error)}"
    return "" if commit == record.revision else f"another revision, {commit} where {record.revision} was used"


def _difference(recorded: Mapping[str, str], found: Mapping[str, str], key: str) -> str:
    """The first file in which two folders of base model `key` differ, and how; "": they are the same model."""
    for file, digest in recorded.items():
        if found.get(file) != digest:
            return f"{file} {'differs' if file in found else 'is missing'}"
    added = sorted(READ_IF_THERE[key] & found.keys() - recorded.keys())
    return f"{added[0]} was added" if added else ""


def _is_id(name: str) -> bool:
    """Whether a name that is no folder can be an id on the hub."""
    model, _ = split_revision(name)
    return bool(_ID.fullmatch(model)) and not Path(model).parent.is_dir()


def _download(model: str, revision: str | None, patterns: Iterable[str]) -> Path:
    """The model's folder in the hub's cache. Raises OSError or ValueError."""
    from huggingface_hub import snapshot_download  # imported here: most models are folders

    return Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns)))


def _copy_base(source: Path, destination: Path) -> dict[str, str]:
    """Copy what is read of a base model; digests by name. Raises ModelError for weights that are not in safetensors."""
    files = digests_read(source)
    if not any(name.endswith(".safetensors") for name in files):
        raise ModelError(f"{source}: its weights are not in safetensors, and others are not copied; load it with "
                         "transformers, save it by save_pretrained, and train with that folder")
    _copy(source, destination, [*files, *_matching(source, LICENCES)])
    return files


def _matching(folder: Path, patterns: Iterable[str]) -> list[str]:
    """Names of the model's files in `folder` that match a pattern."""
    ignored = RECORDS | {"manifest.json"}  # which belongs to a checkpoint
    return sorted({path.name for pattern in patterns for path in folder.glob(pattern)
                   if path.is_file() and path.name not in ignored})


def _copy(source: Path, destination: Path, names: Iterable[str]) -> None:
    for name in names:
        (destination / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, destination / name)  # contents alone: who may read it is up to the umask


def _name_llm(plora: Path, llm: str) -> None:
    """Let peft's own files, if there are any, name the LLM as `llm`, not as a place on the training's machine.

    Raises ModelError.
    """
    config, readme = plora / "adapter_config.json", plora / "README.md"
    if config.is_file():
        try:
            values = json.loads(config.read_text(encoding="utf-8")) | {"base_model_name_or_path": llm}
        except (ValueError, TypeError) as error:
            raise ModelError(f"plora/{config.name}: is damaged ({error}); get the model again") from None
        config.write_text(json.dumps(values, indent=2, sort_keys=True), encoding="utf-8")
    if readme.is_file():
        text = re.sub(r"(?m)^(base_model: |- base_model:adapter:).*$", lambda line: line[1] + llm,
                      readme.read_text(encoding="utf-8"))
        readme.write_text(text, encoding="utf-8")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]

"""What Hugging Face models are loaded with: by id or folder, and never with code that comes with the model.

A model's name is a folder, an id on the hub, or an id as it was at one time: `id@revision`, a branch, tag or commit.
"""

from pathlib import Path
from typing import Any

from blspkd.errors import ModelError
from blspkd.kaldi.tables import remedy_command


def load_pretrained(kind: Any, name: str | Path, **options) -> Any:
    """`kind.from_pretrained(name, **options)` with the classes of transformers alone; raises what that raises.

    Raises ModelError for a model that transformers has no class for: it would run Python code of its own (`auto_map`).
    """
    from transformers.utils import logging  # imported here: commands that load no model must not wait for it

    logging.disable_progress_bar()  # our logs have our own bars
    name, revision = split_revision(name)
    if revision is not None:
        options["revision"] = revision
    try:
        return kind.from_pretrained(name, trust_remote_code=False, **options)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ModelError(f"{name}: transformers has no class for this model, which wants to run code of its own "
                         "(`auto_map` in its configuration); blspkd runs no code of models: use a model that "
                         "transformers knows, or a newer transformers that knows this one") from None


def split_revision(name: str | Path) -> tuple[str, str | None]:
    """The id and the revision of `id@revision`; a folder, or an id alone, has none."""
    model, _, revision = str(name).partition("@")
    return (model, revision) if revision and not Path(name).exists() else (str(name), None)


def pinned(name: str) -> str:
    """A folder as it is; an id on the hub with the commit that it stands for now, `id@commit`.

    Raises OSError or ValueError where neither the hub nor the local cache knows it.
    """
    if Path(name).is_dir():
        return name
    from huggingface_hub import hf_hub_download  # imported here: folders do not need it

    model, revision = split_revision(name)
    file = hf_hub_download(model, "config.json", revision=revision)  # <cache>/models--.../snapshots/<commit>/
    return f"{model}@{Path(file).parent.name}"


def without_weights(kind: Any, name: str | Path) -> Any:
    """The modules of model `name`, of the class that `kind` chooses, without weights (on the meta device)."""
    import torch
    from transformers import AutoConfig

    config = load_pretrained(AutoConfig, name)
    with torch.device("meta"):
        return kind.from_config(config, trust_remote_code=False)


def other_runtime(path: str | Path) -> str:
    """What made a model: "gguf" a file of llama.cpp, "ctranslate2" a folder of faster-whisper; "" for all else."""
    path = Path(path)
    if path.suffix.lower() == ".gguf" and path.is_file():
        return "gguf"
    vocabularies = (path / f"vocabulary.{suffix}" for suffix in ("txt", "json"))
    return "ctranslate2" if (path / "model.bin").is_file() and any(map(Path.is_file, vocabularies)) else ""


def refuse_other_runtimes(name: str) -> None:
    """Raise ModelError, with the command that converts it, where `name` is a model of another runtime."""
    kind = {"gguf": "a GGUF file", "ctranslate2": "a model of CTranslate2"}.get(other_runtime(name))
    if kind:
        raise ModelError(f"{name}: this is {kind}; convert it once, `{remedy_command('convert_model.sh', name)} "
                         "FOLDER`, and name FOLDER")

"""What Hugging Face models are loaded with: by id or folder, and never with code that comes with the model."""

from pathlib import Path
from typing import Any

from blspkd.errors import ModelError


def load_pretrained(kind: Any, name: str | Path, **options) -> Any:
    """`kind.from_pretrained(name, **options)` with the classes of transformers alone; raises what that raises.

    Raises ModelError for a model that transformers has no class for: it would run Python code of its own (`auto_map`).
    """
    try:
        return kind.from_pretrained(name, trust_remote_code=False, **options)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ModelError(f"{name}: transformers has no class for this model, which wants to run code of its own "
                         "(`auto_map` in its configuration); blspkd runs no code of models: use a model that "
                         "transformers knows, or a newer transformers that knows this one") from None


def without_weights(kind: Any, name: str | Path) -> Any:
    """The modules of model `name`, of the class that `kind` chooses, without weights (on the meta device)."""
    import torch
    from transformers import AutoConfig

    config = load_pretrained(AutoConfig, name)
    with torch.device("meta"):
        return kind.from_config(config, trust_remote_code=False)

"""What tells one LLM from another, so that parts written by an older model are not mixed with those of a newer one."""

from pathlib import Path

from transformers import AutoConfig

from blspkd.data.pretrained import load_pretrained
from blspkd.data.prompts import check_model_path
from blspkd.errors import ModelError
from blspkd.model_files import model_digests


def model_identity(name: str) -> dict[str, str]:
    """The contents of a model folder (file name -> digest), or id and revision of a Hugging Face model."""
    check_model_path(name, "LLM")
    if Path(name).is_dir():
        return model_digests(Path(name))
    try:
        revision = getattr(load_pretrained(AutoConfig, name), "_commit_hash", None)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{name}: no such folder, and as a Hugging Face id it cannot be loaded ({reason}); correct "
                         "the name, or download the model first and name its folder") from None
    return {"id": name, "revision": str(revision)}

"""What tells one LLM from another, so that parts written by an older model are not mixed with those of a newer one."""

import hashlib
from pathlib import Path

from transformers import AutoConfig

from blspkd.data.pretrained import load_pretrained
from blspkd.data.prompts import check_model_path
from blspkd.errors import ModelError

_WEIGHTS = (".safetensors", ".bin", ".pt")
_TEXTS = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".py")
_SAMPLE = 1 << 20  # bytes read at the start, in the middle and at the end of a weights file


def model_identity(name: str) -> dict[str, str]:
    """The contents of a model folder (file name -> digest), or id and revision of a Hugging Face model.

    Weights files are sampled, not read whole: they have many GB, and training changes nearly every byte. The folder's
    own name does not count, nor do dates, so that a moved or copied model stays the same one.
    """
    check_model_path(name, "LLM")
    folder = Path(name)
    if folder.is_dir():
        return {path.name: _digest(path) for path in sorted(folder.iterdir())
                if path.is_file() and path.suffix in _WEIGHTS + _TEXTS}
    try:
        revision = getattr(load_pretrained(AutoConfig, name), "_commit_hash", None)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{name}: no such folder, and as a Hugging Face id it cannot be loaded ({reason}); correct "
                         "the name, or download the model first and name its folder") from None
    return {"id": name, "revision": str(revision)}


def _digest(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if path.suffix in _TEXTS or size <= 3 * _SAMPLE:
            digest.update(file.read())
        else:
            for position in (0, size // 2, size - _SAMPLE):
                file.seek(position)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()

"""Models of other runtimes, made into Hugging Face folders that every command here takes by path.

A GGUF file (llama.cpp) holds an LLM, a folder of CTranslate2 (faster-whisper) a Whisper model.
"""

from collections.abc import Callable
from pathlib import Path

from blspkd.data.pretrained import other_runtime
from blspkd.errors import ModelError


def converter_of(path: str | Path) -> Callable[[Path, Path], None]:
    """What converts `path`: called with it and the folder to make. Raises ModelError."""
    kind = other_runtime(path)
    if kind == "gguf":
        from blspkd.models.conversion.gguf_llm import convert
    elif kind == "ctranslate2":
        from blspkd.models.conversion.ctranslate2_whisper import convert
    else:
        raise ModelError(f"{path}: neither a GGUF file nor a folder of CTranslate2 (with model.bin and a vocabulary)")
    return convert

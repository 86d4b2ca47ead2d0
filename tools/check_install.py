"""Prints in one table what works on this machine. Exit status 1 if a part that is required does not.

Runs under any Python 3.10 or newer, with or without the packages: what cannot be imported is a line of the table.
"""

import argparse
import ctypes
import importlib
import importlib.metadata
import importlib.util
import io
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

INSTALL = "make -C tools venv, or pip install -e '.[mini,ark,pack,pretrained,serve,test]'"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    status: str  # "ok", "MISSING" (required), "-" (optional and not there)
    detail: str  # version, or what to do


def check(what: str, test: Callable[[], str], remedy: str = INSTALL, required: bool = True) -> Row:
    """Run `test`, which returns a detail or raises."""
    try:
        return Row(what, "ok", test())
    except Exception as error:  # whatever a broken installation raises is what the table is for
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        return Row(what, "MISSING" if required else "-", f"{reason}; {remedy}")


def imported(module: str, package: str | None = None) -> Callable[[], str]:
    """A test that imports `module`, and returns the version of its package."""

    def test() -> str:
        importlib.import_module(module)
        return importlib.metadata.version(package or module)

    return test


def found(module: str, package: str) -> Callable[[], str]:
    """A test that `module` is installed, without the seconds that its import takes."""

    def test() -> str:
        if importlib.util.find_spec(module) is None:
            raise ImportError("not installed")
        return importlib.metadata.version(package)

    return test


def python_version() -> str:
    if sys.version_info < (3, 10):  # noqa: UP036 (this script is there to find that)
        raise RuntimeError(f"this is Python {platform.python_version()}")
    return f"{platform.python_version()} ({platform.machine()})"


def gpu() -> Row:
    """GPUs are optional: everything runs without one."""
    try:
        import torch

        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if not names:
            built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
            return Row("GPU", "-", f"none that torch can use (this torch: {built}); the mini recipe needs none")
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16: use float32"
        return Row("GPU", "ok", f"{', '.join(names)}; CUDA {torch.version.cuda}; {bf16}")
    except Exception as error:
        return Row("GPU", "-", f"cannot ask torch: {error}")


def audio_format(name: str, subtype: str) -> Callable[[], str]:
    """A test that writes half a second of a tone and reads it back."""

    def test() -> str:
        import numpy as np
        import soundfile

        tone = np.sin(np.arange(8000) * 0.1).astype(np.float32) / 2
        file = io.BytesIO()
        soundfile.write(file, tone, 16000, format=name, subtype=subtype)
        file.seek(0)
        samples, rate = soundfile.read(file, dtype="float32")
        if rate != 16000 or abs(float(np.abs(samples).max()) - 0.5) > 0.1:
            raise RuntimeError("what is read is not what was written")
        return f"written and read ({soundfile.__libsndfile_version__})"

    return test


def ark() -> str:
    import numpy as np

    from blspkd.kaldi import matrices

    matrix = np.arange(6, dtype=np.float32).reshape(3, 2)
    with tempfile.TemporaryDirectory() as folder:
        entries = matrices.write_archive(Path(folder) / "feats.ark", {"utt": matrix})
        if not np.array_equal(matrices.read_matrix(entries["utt"]), matrix):
            raise RuntimeError("what is read is not what was written")
    package = matrices.library().__name__.partition(".")[0]
    licence = " (its licence: evaluation only)" if package == "kaldiio" else ""
    return f"{package} {importlib.metadata.version(package)}{licence}"


def espeak() -> str:
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = espeakng_loader.get_data_path()
    rate = library.espeak_Initialize(2, 0, str(data).encode(), 0)  # 2: synchronous, no sound card
    if rate <= 0:
        raise RuntimeError(f"espeak-ng does not start with the data in {data}")
    library.espeak_Info.restype = ctypes.c_char_p
    version = library.espeak_Info(None).decode()
    library.espeak_Terminate()
    return f"espeak-ng {version}, {rate} Hz (GPL)"


def rows() -> Iterator[Row]:
    """All checks, what is required first."""
    yield check("python", python_version, "name a newer one with PYTHON=/path/to/python3")
    yield check("blspkd", lambda: importlib.import_module("blspkd").__version__)
    for module, package in (("torch", "torch"), ("transformers", "transformers"), ("peft", "peft"),
                            ("accelerate", "accelerate"), ("safetensors", "safetensors"),
                            ("sentencepiece", "sentencepiece"), ("numpy", "numpy"), ("yaml", "pyyaml"),
                            ("soundfile", "soundfile"), ("soxr", "soxr"), ("sacrebleu", "sacrebleu"),
                            ("jiwer", "jiwer"), ("inflect", "inflect"), ("tqdm", "tqdm"),
                            ("tensorboard", "tensorboard"), ("matplotlib", "matplotlib"), ("jinja2", "jinja2"),
                            ("psutil", "psutil")):
        yield check(module, imported(module, package))
    yield gpu()
    for what, name, subtype in (("audio: wav", "WAV", "PCM_16"), ("audio: flac", "FLAC", "PCM_16"),
                                ("audio: sph", "NIST", "PCM_16")):
        yield check(what, audio_format(name, subtype), "pip install -U soundfile")
    for what, name, subtype in (("audio: ogg", "OGG", "VORBIS"), ("audio: mp3", "MP3", "MPEG_LAYER_III")):
        yield check(what, audio_format(name, subtype), "pip install -U soundfile (libsndfile 1.1 or newer)", False)
    for module, package in (("fastapi", "fastapi"), ("uvicorn", "uvicorn"),
                            ("prometheus_client", "prometheus-client")):
        yield check(package, imported(module, package), "pip install -e '.[serve]', only for blspkd serve", False)
    yield check("Kaldi ark", ark, "pip install -e '.[ark]', only for blspkd features", False)
    yield check("espeak-ng", espeak, "pip install -e '.[mini]', only for egs/mini", False)
    yield check("pyarrow", found("pyarrow", "pyarrow"), "pip install -e '.[pack]', only for packed data directories",
                False)
    yield check("pytest", found("pytest", "pytest"), "pip install -e '.[test]', only for the tests", False)
    for module, package, use in (("deepspeed", "deepspeed", "training of large encoders"),
                                 ("liger_kernel", "liger-kernel", "benchmarks")):
        yield check(package, found(module, package), f"optional, for {use}", False)


def main(words: list[str] | None = None) -> int:
    argparse.ArgumentParser(description=__doc__).parse_args(words)
    table = []
    print(f"{'what':<18}{'status':<9}version, or what to do")
    for row in rows():
        table.append(row)
        print(f"{row.what:<18}{row.status:<9}{row.detail}", flush=True)
    missing = [row.what for row in table if row.status == "MISSING"]
    print()
    if missing:
        print(f"required and missing: {', '.join(missing)}", file=sys.stderr)
        return 1
    print("everything that is required works")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Checkpoints: which of them are whole, and which make room for newer ones.

The Trainer writes several files into `checkpoint-<step>`, every rank its own ones. When all ranks are done, the first
writes `manifest.json`: the size and digest of every file, and how the batches of a step were split when the run began.
A checkpoint without a manifest, or with a file that is not as its manifest says, does not count.
"""

import json
import logging
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from blspkd.errors import DataError
from blspkd.files import atomic_write
from blspkd.model_files import file_digest

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
_UNPICKLED = {".pt", ".pth", ".bin"}
# Numpy's random state is an array; nothing else than tensors and plain numbers is among what torch itself allows.
_ARRAYS = {"numpy.ndarray", "numpy.dtype", "numpy.dtypes.UInt32DType", "numpy._core.multiarray._reconstruct",
           "numpy.core.multiarray._reconstruct"}


@dataclass(frozen=True)
class Split:
    """How the batches of an optimiser step are split. Equal products mean equal steps, batch by batch."""

    num_ranks: int
    accumulation: int

    @property
    def batches_per_step(self) -> int:
        return self.num_ranks * self.accumulation

    def __str__(self) -> str:
        return (f"{self.num_ranks} rank{'s' * (self.num_ranks > 1)} x gradient_accumulation {self.accumulation} = "
                f"{self.batches_per_step} batch{'es' * (self.batches_per_step > 1)} per step")


@dataclass(frozen=True)
class _Manifest:
    step: int
    split: Split
    files: dict[str, tuple[int, str]]  # path below the checkpoint -> bytes, digest


def complete_checkpoints(folder: str | Path, newest: int = sys.maxsize) -> list[Path]:
    """`checkpoint-<step>` folders that are whole, the `newest` last ones, oldest first; a warning names the others."""
    found: list[Path] = []
    written = _by_step(folder)
    for _, path in reversed(written):
        if len(found) == newest:
            break
        try:
            _check(path)
            found.append(path)
        except DataError as error:
            logger.warning("%s; this checkpoint is not used", error)
    if written and not found:
        logger.warning("%s: no checkpoint is whole, so that training starts at step 0", folder)
    return found[::-1]


def newest_checkpoints(folder: str | Path, number: int) -> list[Path]:
    """The last `number` whole checkpoints, as the first rank sees them: all ranks have to call this."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return complete_checkpoints(folder, number)
    values = [complete_checkpoints(folder, number) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(values)
    return values[0]


def begun_with(folder: str | Path) -> Split | None:
    """The split of the batches with which the run in `folder` began; None before its first checkpoint."""
    for _, path in reversed(_by_step(folder)):
        try:
            return _read(path).split
        except DataError:
            continue
    return None


def finish_checkpoint(folder: Path, split: Split, keep: int) -> None:
    """Write the manifest, when every rank has written its files; then keep the last `keep` checkpoints (0: all)."""
    step = int(folder.name.removeprefix("checkpoint-"))
    files = {path.relative_to(folder).as_posix(): (path.stat().st_size, _digest(path))
             for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST}
    with atomic_write(folder / MANIFEST) as file:
        json.dump({"step": step, "num_ranks": split.num_ranks, "gradient_accumulation": split.accumulation,
                   "files": files}, file, indent=1)
    if keep:  # later ones are damaged, since the run continued from one before them: they count for nothing
        for path in [path for number, path in _by_step(folder.parent) if number <= step][:-keep]:
            shutil.rmtree(path)


def load_deepspeed_safely() -> None:
    """Let torch refuse anything but tensors, plain numbers and these records of DeepSpeed, which asks for no limits."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    torch.serialization.add_safe_globals([DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address])


def _by_step(folder: str | Path) -> list[tuple[int, Path]]:
    found = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in Path(folder).glob("checkpoint-*")]
    return sorted((int(match[1]), path) for match, path in found if match)


def _read(folder: Path) -> _Manifest:
    try:
        values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        split = Split(int(values["num_ranks"]), int(values["gradient_accumulation"]))
        return _Manifest(int(values["step"]), split,
                         {name: (int(size), digest) for name, (size, digest) in values["files"].items()})
    except FileNotFoundError:
        raise DataError(f"{folder}: has no {MANIFEST}, which is written last: the run was stopped before, or an older "
                        "version of this toolkit wrote it") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise DataError(f"{folder}/{MANIFEST}: is damaged") from None


def _check(folder: Path) -> None:
    """Raises DataError where a checkpoint is not as it was written, or holds what nobody should load."""
    manifest = _read(folder)
    if folder.name != f"checkpoint-{manifest.step}":
        raise DataError(f"{folder}: was written as checkpoint-{manifest.step}")
    for name, (size, digest) in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: is missing")
        if path.stat().st_size != size:
            raise DataError(f"{path}: has {path.stat().st_size:,} bytes where {size:,} were written")
        if _digest(path) != digest:
            raise DataError(f"{path}: is damaged, its contents are not those that were written")
    for path in folder.rglob("*"):
        if path.suffix in _UNPICKLED:
            _check_pickle(path)


def _check_pickle(path: Path) -> None:
    """torch refuses to unpickle anything but tensors and plain numbers; say so before it does."""
    try:
        strange = set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - _ARRAYS
    except Exception as error:  # a forged file can make it raise anything
        raise DataError(f"{path}: cannot be read ({type(error).__name__}: {str(error)[:100]})") from None
    if strange:
        raise DataError(f"{path}: holds {sorted(strange)[0]}, where only tensors and plain numbers are loaded")


def _digest(path: Path) -> str:
    return file_digest(path, whole=sys.maxsize)

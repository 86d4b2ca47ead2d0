"""Kaldi matrices and vectors in archives (`ark,scp`); no other module reads or writes them.

The work is done by omniio's Kaldi layer (MIT), or by kaldiio where a user has that instead (its licence allows
evaluation only): both write what Kaldi reads. What is read has to begin as a Kaldi matrix does, because these libraries
would also run commands (`gunzip -c x.gz |`), and kaldiio unpickle what it finds.
"""

import importlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from blspkd.errors import ConfigError, DataError
from blspkd.files import atomic_path
from blspkd.kaldi.tables import read_table

LIBRARIES = ("omniio.kaldi", "kaldiio")  # the first that is installed
_TOKENS = (b"FM", b"DM", b"FV", b"DV", b"CM", b"CM2", b"CM3")  # float and double matrices and vectors, compressed ones


def library() -> ModuleType:
    """Raises ConfigError, with the command that installs one, where there is none."""
    for name in LIBRARIES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ConfigError("Kaldi archives need a package that is not installed: pip install 'blspkd[ark]'")


def write_archive(path: str | os.PathLike, matrices: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Write {id: [T, C] or [T]} as float32, atomically; returns {id: its entry of an scp file, `file.ark:offset`}."""
    path, libraries = Path(path).absolute(), library()
    with atomic_path(path) as temporary:
        index = temporary.with_name(f"{temporary.name}.scp")
        try:
            libraries.save_ark(str(temporary), {key: np.asarray(matrix, dtype=np.float32)
                                                for key, matrix in matrices.items()}, scp=str(index))
            lines = index.read_text(encoding="utf-8").splitlines()
        finally:
            index.unlink(missing_ok=True)
    return {line.split(" ", 1)[0]: f"{path}:{line.rpartition(':')[2]}" for line in lines}


def read_matrix(entry: str) -> np.ndarray:
    """The matrix [T, C] or vector [T] that the entry `file.ark:offset` of an scp file names. Raises DataError."""
    path, _, offset = entry.rpartition(":")
    if not path or not offset.isdecimal():
        raise DataError(f"{entry}: is not of the form file.ark:offset (commands are not run)")
    try:
        with open(path, "rb") as file:
            file.seek(int(offset))
            head = file.read(6)
    except (OSError, ValueError, OverflowError) as error:  # a NUL in the path; an offset that no file has
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{entry}: cannot be read: {reason}; write the archive again") from None
    if head[:2] != b"\0B" or head[2:].partition(b" ")[0] not in _TOKENS:
        raise DataError(f"{entry}: no Kaldi matrix or vector begins there; write the archive again")
    try:
        return np.asarray(library().load_mat(entry))
    except (RuntimeError, ValueError, AssertionError, MemoryError, OverflowError) as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{entry}: is damaged or cut short ({reason}); write the archive again") from None


def read_matrices(scp: str | os.PathLike) -> Iterator[tuple[str, np.ndarray]]:
    """(id, matrix) of all lines of an scp file. Raises DataError, which names the line's id."""
    for key, entry in read_table(scp).items():
        try:
            yield key, read_matrix(entry)
        except DataError as error:
            raise DataError(f"{scp}: {key}: {error}") from None

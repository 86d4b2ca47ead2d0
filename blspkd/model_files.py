"""What tells the files of one model from those of another: digests in which a change of any tensor shows.

Files of up to 64 MiB are read whole. A larger one has its safetensors header read whole, every tensor of up to 1 MiB
too, and of a larger tensor one 8-byte word of every 61, which is several times as fast as hashing all of it (15 GB in
the page cache: 2 to 3 s). So any change of 496 bytes in a row shows, and of a row that long, or of a column of 61 rows
or more; a few single numbers inside a large tensor may not.

Standard library only: the recipes' stage markers use it as well.
"""

import functools
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

WHOLE_FILE, WHOLE_TENSOR = 64 << 20, 1 << 20  # bytes; larger ones are sampled
STRIDE = 61  # words; a prime number, so that samples do not stay in the same columns of a matrix
LARGEST_HEADER = 100_000_000  # bytes, of safetensors
BLOCK = STRIDE * 8 << 12  # bytes read at a time
# How a model was made, and where its base models are: no part of it.
RECORDS = {"training.json", "training_args.bin", "trainer_state.json", "base_models.json"}
SETTLED = 2  # seconds without a change, after which the next one is sure to show in a file's dates
_WEIGHTS = {".safetensors", ".bin", ".pt"}
_TEXTS = {".json", ".jinja", ".model", ".txt", ".tiktoken", ".py"}


def model_digests(folder: Path) -> dict[str, str]:
    """The files of a Hugging Face model folder that decide what it computes, by name: their digests.

    The folder's own name does not count, nor do dates, so that a moved or copied model stays the same one. A file is
    read once per process, as long as it stays as it is.
    """
    files = {path.name: path for path in folder.iterdir()
             if path.suffix in _WEIGHTS | _TEXTS and path.name not in RECORDS}
    files |= {name: folder / name for index in folder.glob("*.index.json") for name in _shards(index)}
    return {name: _digest_once(path) for name, path in sorted(files.items()) if path.is_file()}


def file_digest(path: Path, whole: int = WHOLE_FILE) -> str:
    """SHA-256, in hexadecimal, of a file's size and contents; files of more than `whole` bytes are sampled."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        all_of_it = size <= whole or path.suffix in _TEXTS
        for start, end, step in [(0, size, 1)] if all_of_it else _parts(file, size):
            for block in _blocks(file, start, end):
                digest.update(block if step == 1 else _words(block)[::step].tobytes())
    return digest.hexdigest()


def _digest_once(path: Path) -> str:
    stat = path.stat()
    if time.time() - stat.st_mtime < SETTLED:
        return file_digest(path)
    return _digest_of(path.absolute(), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@functools.lru_cache(maxsize=4096)
def _digest_of(path: Path, *state: int) -> str:
    """The digest of a file in this state: inode, size and dates."""
    return file_digest(path)


def _shards(index: Path) -> set[str]:
    """Files of weights that an index names, in subfolders too."""
    try:
        return {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()  # a damaged index: loading it says so


def _parts(file: BinaryIO, size: int) -> list[tuple[int, int, int]]:
    """(first byte, byte behind the last, step in words) of the header and every tensor; step 1: read whole.

    A file in another format has three parts: start and end are whole (PyTorch's has its tensors' CRC-32 there).
    """
    try:
        behind_header = 8 + int.from_bytes(file.read(8), "little")
        if behind_header > min(size, LARGEST_HEADER):
            raise ValueError
        header = json.loads(file.read(behind_header - 8))
        tensors = sorted(entry["data_offsets"] for name, entry in header.items() if name != "__metadata__")
        return [(0, behind_header, 1)] + [
            (behind_header + start, behind_header + end, 1 if end - start <= WHOLE_TENSOR else STRIDE)
            for start, end in tensors]
    except (ValueError, KeyError, TypeError, AttributeError):
        edge = min(WHOLE_TENSOR, size // 2)
        return [(0, edge, 1), (edge, size - edge, STRIDE), (size - edge, size, 1)]


def _blocks(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    while start < end and (block := file.read(min(BLOCK, end - start))):
        yield block
        start += len(block)


def _words(block: bytes) -> memoryview:
    return memoryview(block)[:len(block) // 8 * 8].cast("Q")

"""A shard: some utterances with all that training reads of them, as an Arrow file (IPC, uncompressed).

Any Arrow library reads it. Nothing in it is compressed or encoded by Arrow, so that an utterance's tokens and audio are
bytes at a known place of the file, which the index tells: they are read without Arrow, and without their neighbours.
"""

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from blspkd.errors import DataError
from blspkd.files import atomic_path

BATCH_BYTES = 64 << 20  # audio in a record batch, which is what waits in memory to be written
_KEY = b"blspkd"


@dataclass(frozen=True)
class Row:
    """One utterance. Its turn is prefix + input + suffix; no response where it has no continuation."""

    utt_id: str
    text: str
    duration: float  # seconds
    prefix: np.ndarray  # int32, like the three below
    input: np.ndarray
    suffix: np.ndarray
    response: np.ndarray | None
    audio: bytes  # of an audio file

    @property
    def input_sum(self) -> int:
        return checksum(self.input)

    @property
    def response_sum(self) -> int:
        return checksum(b"" if self.response is None else self.response)


def arrow() -> ModuleType:
    """pyarrow. Raises DataError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.ipc  # which `pyarrow.ipc` needs
    except ImportError:
        raise DataError("packed data directories need pyarrow: pip install 'blspkd[pack]'") from None
    return pyarrow


def checksum(tokens: bytes | np.ndarray) -> int:
    """CRC-32: whoever reads an utterance's tokens sees whether they are those that were written."""
    return zlib.crc32(tokens)


def damaged_row(batch: Any, name: str) -> int | None:
    """The first row of a record batch whose "input" or "response" is not what was written."""
    tokens = batch.column(name)
    values, edges = tokens.values.to_numpy(), tokens.offsets.to_numpy()
    for row, written in enumerate(batch.column(f"{name}_sum").to_numpy().tolist()):
        if checksum(values[edges[row]:edges[row + 1]]) != written:
            return row
    return None


def write_shard(path: Path, rows: Iterable[Row], made_from: str, number: int) -> None:
    """Write `number` rows, whole or not at all; made_from: a digest, which `state` compares."""
    pa = arrow()
    tokens = pa.list_(pa.int32())
    schema = pa.schema([("utt_id", pa.string()), ("text", pa.string()), ("duration", pa.float64()), ("prefix", tokens),
                        ("input", tokens), ("suffix", tokens), ("response", tokens), ("input_sum", pa.uint32()),
                        ("response_sum", pa.uint32()), ("audio", pa.large_binary())],
                       metadata={_KEY: json.dumps({"made_from": made_from, "rows": number})})
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        with pa.ipc.new_file(file, schema) as writer:
            for batch in _batches(rows):
                writer.write_batch(pa.record_batch([[getattr(row, name) for row in batch] for name in schema.names],
                                                   schema=schema))
        file.flush()
        os.fsync(file.fileno())


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch, size = [], 0
    for row in rows:
        batch.append(row)
        size += len(row.audio)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def state(path: Path, made_from: str, with_tokens: bool = False) -> str:
    """"missing", "cut" (or damaged), "stale" (made from something else) or "whole".

    with_tokens: they are read and compared with their checksums, too.
    """
    if not path.exists():
        return "missing"
    try:
        with open_shard(path) as (_, batches):
            written = json.loads(batches[0].schema.metadata[_KEY]) if batches else {}
            if written.get("rows") != sum(batch.num_rows for batch in batches):
                return "cut"
            if written["made_from"] != made_from:
                return "stale"
            if with_tokens and any(damaged_row(batch, name) is not None for batch in batches
                                   for name in ("input", "response")):
                return "cut"
    except DataError:
        return "cut"
    return "whole"


@contextmanager
def open_shard(path: Path) -> Iterator[tuple[int, list[Any]]]:
    """Map a shard: the address at which it begins, and its record batches. Raises DataError for a cut one."""
    pa = arrow()
    try:
        mapped = pa.memory_map(str(path))
        whole = mapped.read_buffer()
        reader = pa.ipc.open_file(pa.BufferReader(whole))
        opened = whole.address, [reader.get_batch(number) for number in range(reader.num_record_batches)]
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: is cut or damaged ({str(error).splitlines()[0]}); pack the directory again, which "
                        "remakes this file alone") from None
    with mapped:
        yield opened

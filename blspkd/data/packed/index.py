"""The index of a packed directory: a row of numbers per utterance, which a training maps into its memory.

All of them are in one record batch, so that a column is an array. Places are bytes from the beginning of the shard.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from blspkd.data.packed.shard import arrow, open_shard
from blspkd.errors import DataError
from blspkd.files import atomic_path

TOKEN_BYTES = 4
_TYPES = {"shard": np.int32, "turn": np.int32, "n_input": np.int32, "n_response": np.int32, "text_bytes": np.int32,
          "input_sum": np.uint32, "response_sum": np.uint32}


@dataclass(frozen=True)
class Index:
    """The columns, all [n] but the ids."""

    utt_id: Any  # pyarrow's array of strings
    duration: np.ndarray  # float64, seconds
    shard: np.ndarray  # int32, counted from 0
    turn: np.ndarray  # int32: of the list of different (prefix, suffix)
    n_input: np.ndarray  # int32: tokens
    n_response: np.ndarray  # int32; -1: the utterance has no continuation
    input_sum: np.ndarray  # uint32: checksums of the tokens
    response_sum: np.ndarray
    text_bytes: np.ndarray  # int32
    audio_bytes: np.ndarray  # int64
    text_at: np.ndarray  # int64, like the three below
    input_at: np.ndarray
    response_at: np.ndarray
    audio_at: np.ndarray


def write_index(path: Path, shards: list[Path]) -> list[tuple[list[int], list[int]]]:
    """Write the index of all shards; returns the different (prefix, suffix), as token ids."""
    pa = arrow()
    turns: dict[tuple[bytes, bytes], int] = {}
    parts = [part for number, shard in enumerate(shards) for part in _rows(shard, number, turns)]
    ids = pa.concat_arrays([part["utt_id"] for part in parts])
    names = [field.name for field in fields(Index)]
    arrays = [ids if name == "utt_id" else pa.array(np.concatenate([part[name] for part in parts])) for name in names]
    batch = pa.record_batch(arrays, names=names)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        with pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        file.flush()
        os.fsync(file.fileno())
    return [tuple(np.frombuffer(part, np.int32).tolist() for part in turn) for turn in turns]


def read_index(path: Path) -> Index:
    """Map the index. Raises DataError for a cut one."""
    pa = arrow()
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: is cut or damaged ({str(error).splitlines()[0]}); pack the directory again, which "
                        "writes the index anew from the shards") from None
    return Index(batch.column("utt_id"), **{field.name: batch.column(field.name).to_numpy(zero_copy_only=True)
                                            for field in fields(Index)[1:]})


def _rows(shard: Path, number: int, turns: dict[tuple[bytes, bytes], int]) -> Iterator[dict[str, Any]]:
    """The columns of every record batch of a shard; new turns are added to `turns`."""
    pa = arrow()
    with open_shard(shard) as (begin, batches):
        for batch in batches:
            n, row = batch.num_rows, {}
            row["utt_id"] = pa.array(batch.column("utt_id").to_pylist(), pa.string())  # a copy: the map is closed
            row["duration"] = batch.column("duration").to_numpy().copy()
            row["shard"] = np.full(n, number)
            for name in ("text", "audio"):
                column = batch.column(name)
                edges = np.frombuffer(column.buffers()[1], np.int32 if name == "text" else np.int64, n + 1)
                row[f"{name}_bytes"] = np.diff(edges)
                row[f"{name}_at"] = _address(column.buffers()[2], begin) + edges[:-1].astype(np.int64)
            for name in ("input", "response"):
                column = batch.column(name)
                edges = column.offsets.to_numpy()
                valid = column.is_valid().to_numpy(zero_copy_only=False)
                row[f"n_{name}"] = np.where(valid, np.diff(edges), -1)
                row[f"{name}_sum"] = batch.column(f"{name}_sum").to_numpy().copy()
                row[f"{name}_at"] = (_address(column.values.buffers()[1], begin)
                                     + TOKEN_BYTES * edges[:-1].astype(np.int64))
            pairs = zip(_bytes(batch.column("prefix")), _bytes(batch.column("suffix")), strict=True)
            row["turn"] = np.fromiter((turns.setdefault(pair, len(turns)) for pair in pairs), np.int32, n)
            yield {name: np.asarray(values, _TYPES.get(name)) if name in _TYPES else values
                   for name, values in row.items()}


def _address(buffer: Any, begin: int) -> int:
    """Where a buffer begins in the file; 0 where it holds nothing."""
    return 0 if buffer is None else buffer.address - begin


def _bytes(column: Any) -> Iterator[bytes]:
    """The tokens of every row of a column of lists."""
    edges, values = column.offsets.to_numpy(), column.values.to_numpy().astype(np.int32, copy=False)
    return (values[first:end].tobytes() for first, end in zip(edges, edges[1:], strict=False))

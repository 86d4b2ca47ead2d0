"""Digests of model files: any single tensor that changes shows, also in files that are too large to read whole."""

import json
import os
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from blspkd.model_files import WHOLE_TENSOR, file_digest, model_digests

SHAPES = [(), (1,), (3,), (127,), (700,), (512, 64), (300, 300), (1024, 61), (600, 1000), (2, 3, 5, 7), (33, 1),
          (300, 2, 3, 500), (520_000,), (1, 600_000), (1000, 640)]
TYPES = [np.float32, np.float16, np.float64, np.int8, np.float32]


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    """75 tensors: of many shapes and types."""
    random = np.random.default_rng(0)
    return {f"layer.{i}": np.asarray(random.standard_normal(SHAPES[i % 15]) * 50).astype(TYPES[i // 15])
            for i in range(75)}


@pytest.fixture(scope="module")
def large(tensors, tmp_path_factory) -> tuple[Path, dict[str, tuple[int, int]]]:
    """A file of those tensors, and the first byte and the one behind the last of each."""
    path = tmp_path_factory.mktemp("large") / "model.safetensors"
    save_file(tensors, path)
    with open(path, "rb") as file:
        header_size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(header_size))
    return path, {name: tuple(8 + header_size + offset for offset in header[name]["data_offsets"]) for name in tensors}


def everywhere(values: np.ndarray) -> np.ndarray:
    return values + np.asarray(1 if values.dtype == np.int8 else 1e-3 * np.abs(values).max()).astype(values.dtype)


def low_rank(values: np.ndarray) -> np.ndarray:
    if values.ndim < 2:
        return everywhere(values)
    random = np.random.default_rng(1)
    update = np.multiply.outer(random.standard_normal(values.shape[0]), random.standard_normal(values.shape[1:]))
    return (values + (3 * update if values.dtype == np.int8 else 0.1 * update)).astype(values.dtype)


def one_row(values: np.ndarray) -> np.ndarray:
    """One row; of a vector, 496 bytes in a row."""
    changed = np.atleast_1d(values).copy()
    middle = len(changed) // 2
    rows = slice(middle, middle + 1 if changed.ndim > 1 else middle + 496 // changed.itemsize)
    changed[rows] = -changed[rows] + 1
    return changed.reshape(values.shape)


def last_column(values: np.ndarray) -> np.ndarray:
    """The last column; of what has fewer than 61 rows, one row."""
    if values.size < 61 * np.atleast_1d(values).shape[-1]:
        return one_row(values)
    changed = values.copy()
    changed[..., -1] = -changed[..., -1] + 1
    return changed


def unnoticed(large, tensors, change) -> list[str]:
    """Tensors of which a change leaves the file's digest as it was, though the file is sampled."""
    path, places = large
    before, missed = file_digest(path, whole=0), []
    with open(path, "r+b") as file:
        for name, values in tensors.items():
            for contents in (change(values), values):
                assert contents.dtype == values.dtype and contents.nbytes == places[name][1] - places[name][0]
                file.seek(places[name][0])
                file.write(contents.tobytes())
                file.flush()
                missed += [name] if contents is not values and file_digest(path, whole=0) == before else []
    assert file_digest(path, whole=0) == before
    return missed


@pytest.mark.parametrize("change", [everywhere, low_rank, one_row, last_column])
def test_a_change_of_any_single_tensor_shows(large, tensors, change):
    assert sum(values.nbytes > WHOLE_TENSOR for values in tensors.values()) >= 15  # which are sampled
    assert unnoticed(large, tensors, change) == []


def test_in_a_file_that_is_read_whole_a_single_bit_shows(large):
    path, places = large
    before = file_digest(path)
    with open(path, "r+b") as file:
        file.seek(places["layer.8"][0] + 100_001)
        byte = file.read(1)[0]
        for value, same in ((byte ^ 1, False), (byte, True)):
            file.seek(places["layer.8"][0] + 100_001)
            file.write(bytes([value]))
            file.flush()
            assert (file_digest(path) == before) is same


def test_a_row_shows_in_a_file_of_any_format(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (9000, 512), dtype=np.uint8)
    path = tmp_path / "pytorch_model.bin"
    digests = set()
    for number in (None, 0, 1, 4567, 8998, 8999):
        changed = rows.copy()
        if number is not None:
            changed[number] ^= 1
        path.write_bytes(changed.tobytes())
        digests.add(file_digest(path, whole=0))
    assert len(digests) == 6


def test_a_large_file_is_read_block_by_block(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(b"PK\3\4" * 10)
    os.truncate(path, 256 << 20)
    tracemalloc.start()
    file_digest(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_a_file_that_only_looks_like_safetensors_has_a_digest(tmp_path):
    path = tmp_path / "model.safetensors"
    for contents in (b"", b"abc", b"\xff" * 2000, struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 11) + b'{"a": null}'):
        path.write_bytes(contents)
        assert file_digest(path, whole=0) != file_digest(Path(__file__))


def test_records_of_a_training_are_no_part_of_a_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    before = model_digests(tmp_path)
    assert list(before) == ["config.json"]
    (tmp_path / "training.json").write_text('{"results": {"seconds": 3.1}}')
    assert model_digests(tmp_path) == before


def test_it_needs_nothing_but_the_standard_library():
    code = "import sys, blspkd.model_files; sys.exit(bool({'numpy', 'torch', 'yaml'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0


def test_weights_in_a_subfolder_belong_to_the_model_when_its_index_names_them(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "sub/x.safetensors", "b": "y.bin"}}')
    (tmp_path / "sub/x.safetensors").write_bytes(b"1")
    before = model_digests(tmp_path)
    (tmp_path / "sub/x.safetensors").write_bytes(b"2")
    assert model_digests(tmp_path) != before and set(before) == {"model.safetensors.index.json", "sub/x.safetensors"}

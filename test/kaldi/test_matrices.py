"""Kaldi matrices: both libraries write and read the same, and nothing but matrices is opened."""

import importlib
import pickle
import struct

import numpy as np
import pytest

from blspkd.errors import ConfigError, DataError
from blspkd.kaldi import matrices
from blspkd.kaldi.tables import write_table

NAMES = [name for name in matrices.LIBRARIES if importlib.util.find_spec(name.partition(".")[0])]
MATRICES = {"ann-1": np.arange(12, dtype=np.float32).reshape(4, 3), "bob-1": np.linspace(0, 1, 7, dtype=np.float32),
            "ann-2": np.array([[-0.5]])}

pytestmark = pytest.mark.skipif(not NAMES, reason="neither omniio nor kaldiio is installed")


@pytest.fixture(params=NAMES)
def library(request, monkeypatch) -> str:
    monkeypatch.setattr(matrices, "LIBRARIES", (request.param,))
    return request.param


def write(tmp_path) -> str:
    """A table of MATRICES."""
    write_table(tmp_path / "feats.scp", matrices.write_archive(tmp_path / "feats.ark", MATRICES))
    return str(tmp_path / "feats.scp")


def test_what_is_written_is_read(library, tmp_path):
    found = dict(matrices.read_matrices(write(tmp_path)))
    assert list(found) == sorted(MATRICES)
    for key, matrix in MATRICES.items():
        assert found[key].dtype == np.float32 and np.array_equal(found[key], matrix.astype(np.float32))


@pytest.mark.parametrize("reader", NAMES)
def test_one_library_reads_what_the_other_wrote(library, reader, tmp_path, monkeypatch):
    scp = write(tmp_path)
    monkeypatch.setattr(matrices, "LIBRARIES", (reader,))
    for key, matrix in matrices.read_matrices(scp):
        assert np.array_equal(matrix, MATRICES[key].astype(np.float32))


def test_both_write_the_same_bytes(tmp_path, monkeypatch):
    if len(NAMES) < 2:
        pytest.skip("needs omniio and kaldiio")
    written = []
    for name in NAMES:
        monkeypatch.setattr(matrices, "LIBRARIES", (name,))
        entries = matrices.write_archive(tmp_path / "feats.ark", MATRICES)
        written.append((entries, (tmp_path / "feats.ark").read_bytes()))
    assert written[0] == written[1]


def test_an_archive_appears_whole_or_not_at_all(library, tmp_path):
    with pytest.raises(ValueError, match="could not convert"):
        matrices.write_archive(tmp_path / "feats.ark", {"a": np.zeros((2, 2)), "b": ["words"]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("entry", "problem"), [
    ("{ark}", "not of the form"), ("cat {ark} |", "not of the form"), ("nowhere.ark:5", "cannot be read"),
    ("{ark}:7", "no Kaldi matrix or vector begins there"), ("{ark}:99999", "no Kaldi matrix or vector begins there"),
    ("\0:3", "cannot be read"), ("{ark}:" + 30 * "9", "cannot be read"), ("{ark}:" + 5000 * "9", "cannot be read"),
    ("{huge}:0", "damaged or cut short"), ("{cut}:6", "damaged or cut short"),
    ("{pickle}:2", "no Kaldi matrix or vector begins there")])
def test_what_is_no_matrix_is_named_and_not_opened(library, tmp_path, entry, problem):
    write(tmp_path)
    data = (tmp_path / "feats.ark").read_bytes()
    (tmp_path / "cut.ark").write_bytes(data[:30])
    (tmp_path / "pickle.ark").write_bytes(b"a PKL" + pickle.dumps(np.zeros(3)))
    (tmp_path / "huge.ark").write_bytes(b"\0BFM " + 2 * struct.pack("<bi", 4, 2**31 - 1))
    entry = entry.format(**{path.stem: path for path in tmp_path.glob("*.ark")}, ark=tmp_path / "feats.ark")
    with pytest.raises(DataError, match=problem):
        matrices.read_matrix(entry)
    if "\0" in entry:  # no table can hold it
        return
    (tmp_path / "x.scp").write_text(f"utt-9 {entry}\n")
    with pytest.raises(DataError, match=f"x.scp: utt-9: .*{problem}"):
        list(matrices.read_matrices(tmp_path / "x.scp"))


def test_without_a_library_the_command_that_installs_one_is_told(monkeypatch):
    monkeypatch.setattr(matrices, "LIBRARIES", ("no_such_package.kaldi",))
    with pytest.raises(ConfigError, match=r"pip install 'blspkd\[ark\]'"):
        matrices.library()

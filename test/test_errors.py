"""What a command says when it fails: one message for what the user can mend, a traceback for what is our bug."""

import errno
import resource
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from blspkd.errors import DataError, command, writing
from blspkd.files import atomic_path, atomic_write


def raising(error: BaseException):
    @command
    def main():
        raise error
    return main


@pytest.mark.parametrize(("error", "status", "said"), [
    (DataError("text:3: bad"), 1, "error: text:3: bad\n"),
    (OSError(errno.ENOSPC, "No space left on device", "a.txt"), 1,
     "error: a.txt: No space left on device (3 MB free); free some space and start the same command again\n"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), 1,
     "error: a file: Disk quota exceeded; free some space and start the same command again\n"),
    (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), 1,
     "error: a file: No space left on device; free some space and start the same command again\n"),
    (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), 1,
     "error: a file: No space left on device; free some space and start the same command again\n"),
    (PermissionError(errno.EACCES, "Permission denied", "b"), 1,
     "error: b: Permission denied; mend the permissions and start the same command again\n"),
    (NotADirectoryError(errno.ENOTDIR, "Not a directory", "c/d"), 1,
     "error: c/d: Not a directory; name another place and start the same command again\n"),
    (KeyboardInterrupt(), 130, "interrupted; start the same command again to go on from here\n"),
])
def test_what_a_user_can_mend_is_one_message(capsys, monkeypatch, error, status, said):
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=3_000_000))
    with pytest.raises(SystemExit) as end:
        raising(error)()
    assert end.value.code == status
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.EBADF, "Bad descriptor"), FileNotFoundError("x"),
                                   RuntimeError("cannot open it (os error 2)")])
def test_our_bugs_keep_their_traceback(error):
    with pytest.raises(type(error)):
        raising(error)()


def test_a_write_that_fails_names_its_file(tmp_path):
    with pytest.raises(OSError) as raised, atomic_write(tmp_path / "table"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "table")
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_in_a_thread_is_one_message_too(capsys):
    def fill():
        raise OSError(errno.ENOSPC, "No space left on device")

    @command
    def main():
        thread = threading.Thread(target=fill)
        thread.start()
        thread.join()

    main()
    assert capsys.readouterr().err == (
        "error: a file: No space left on device; free some space and start the same command again\n")


def test_a_library_that_does_not_name_the_file_gets_the_folder_that_it_writes_to(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=3_000_000))
    with pytest.raises(OSError) as raised, writing(tmp_path / "exp" / "train"):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "exp" / "train"))


def write_text(path):
    path.write_text("x" * 1_000_000)


WRITERS = {
    "text": write_text,
    "numpy": lambda path: np.zeros(1_000_000).tofile(path),
    "torch": lambda path: torch.save({"weights": torch.zeros(1_000_000)}, path),
    "safetensors": lambda path: save_file({"weights": torch.zeros(1_000_000)}, path),
    "wav": lambda path: soundfile.write(path, np.zeros(1_000_000), 16000, format="WAV"),
    "flac": lambda path: soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, 1_000_000), 16000,
                                         format="FLAC"),
}


@pytest.fixture
def small_files():
    """No file may grow beyond 100 kB: every library meets that as it meets a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("library", WRITERS)
def test_every_library_that_cannot_write_is_one_message(library, tmp_path, small_files, capsys):
    @command
    def main():
        with atomic_path(tmp_path / "file") as temporary:
            WRITERS[library](temporary)

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert capsys.readouterr().err == (f"error: {tmp_path}/file: File too large; raise the limit (ulimit -f) and start "
                                       "the same command again\n")
    assert list(tmp_path.iterdir()) == []


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise DataError("shard-00001.arrow: is cut; pack it again:\n  `utils/data_dir.sh pack`")


def test_a_message_from_a_data_loaders_process_comes_without_its_traceback(capsys):
    with pytest.raises(SystemExit):
        command(lambda: list(torch.utils.data.DataLoader(Broken(), num_workers=1)))()
    assert capsys.readouterr().err == "error: shard-00001.arrow: is cut; pack it again:\n  `utils/data_dir.sh pack`\n"

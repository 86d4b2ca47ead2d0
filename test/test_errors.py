"""What a command says when it fails: one message for what the user can mend, a traceback for what is our bug."""

import errno

import pytest

from blspkd.atomic import atomic_write
from blspkd.errors import DataError, command


def raising(error: BaseException):
    @command
    def main():
        raise error
    return main


@pytest.mark.parametrize(("error", "status", "said"), [
    (DataError("text:3: bad"), 1, "error: text:3: bad\n"),
    (OSError(errno.ENOSPC, "No space left on device", "a.txt"), 1,
     "error: a.txt: No space left on device; free some space and start the same command again\n"),
    (PermissionError(errno.EACCES, "Permission denied", "b"), 1,
     "error: b: Permission denied; mend the permissions and start the same command again\n"),
    (NotADirectoryError(errno.ENOTDIR, "Not a directory", "c/d"), 1,
     "error: c/d: Not a directory; name another place and start the same command again\n"),
    (KeyboardInterrupt(), 130, "interrupted; start the same command again to go on from here\n"),
])
def test_what_a_user_can_mend_is_one_message(capsys, error, status, said):
    with pytest.raises(SystemExit) as end:
        raising(error)()
    assert end.value.code == status
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.EBADF, "Bad descriptor"), FileNotFoundError("x")])
def test_our_bugs_keep_their_traceback(error):
    with pytest.raises(type(error)):
        raising(error)()


def test_a_write_that_fails_names_its_file(tmp_path):
    with pytest.raises(OSError) as raised, atomic_write(tmp_path / "table"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "table")
    assert list(tmp_path.iterdir()) == []

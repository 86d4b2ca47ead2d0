"""Write to a temporary name, then rename: a reader sees the whole file or none, also after `kill -9`."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`, on an error it is removed.

    The caller may create a file or a directory there. An existing directory at `path` is replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    _remove(temporary)
    try:
        yield temporary
        _open_to_readers(temporary)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException as error:
        _remove(temporary)
        if isinstance(error, OSError) and error.filename is None:  # a failed write does not know its file
            error.filename = str(path)
        raise


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator:
    """Open `path` for writing UTF-8 text; it appears, complete and on disk, when the block ends without an error."""
    with atomic_path(path) as temporary:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())


def _open_to_readers(path: Path) -> None:
    """Leave it to the umask who may read a file or the files below a folder; safetensors' are for their owner alone."""
    umask = os.umask(0o077)  # it can only be read by setting it; a file that another thread makes now stays its owner's
    os.umask(umask)
    for file in path.rglob("*") if path.is_dir() else [path]:
        mode = file.stat(follow_symlinks=False).st_mode
        if stat.S_ISREG(mode) and mode | 0o666 & ~umask != mode:
            with suppress(PermissionError):  # some network file systems have modes of their own
                file.chmod(mode | 0o666 & ~umask)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

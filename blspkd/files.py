"""Write to a temporary name, then rename: a reader sees the whole file or none, also after `kill -9`.

What a killed process leaves, `<name>.tmp-<place>-<process id>`, is removed by the next process that writes into the
same folder. The place tells machines that share a disk, and containers, from each other: a process id says nothing
elsewhere.
"""

import functools
import hashlib
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blspkd.errors import refusal

LEFTOVER = re.compile(r".+\.tmp-([0-9a-f]{8})-(\d+)")
WEEK = 7 * 24 * 3600  # seconds without a change, after which a temporary file of another place is nobody's


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`, on an error it is removed.

    The caller may create a file or a directory there. An existing directory at `path` is replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent.absolute())
    temporary = path.with_name(f"{path.name}.tmp-{_place()}-{os.getpid()}")
    _remove(temporary)
    try:
        yield temporary
        _open_to_readers(temporary)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException as error:
        refused = refusal(error, path)  # while the disk is as full as it was
        _remove(temporary)
        if refused is None or refused is error:
            raise
        raise refused from error


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator:
    """Open `path` for writing UTF-8 text; it appears, complete and on disk, when the block ends without an error."""
    with atomic_path(path) as temporary:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())


@functools.cache
def _place() -> str:
    """This machine, or this container: where process ids mean the same."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return hashlib.sha256(f"{socket.gethostname()} {namespace}".encode()).hexdigest()[:8]


@functools.cache  # once per process and folder
def _remove_leftovers(folder: Path) -> None:
    for name in os.listdir(folder):
        found = LEFTOVER.fullmatch(name)
        if found and not _is_owned(folder / name, *found.groups()):
            with suppress(OSError):  # another process may be removing it, or may not let us
                _remove(folder / name)


def _is_owned(path: Path, place: str, process: str) -> bool:
    """Whether somebody may still be writing the temporary file."""
    try:
        if place != _place():
            return time.time() - path.stat().st_mtime < WEEK
        os.kill(int(process), 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except (OSError, OverflowError):  # it is somebody else's
        return True
    return True


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

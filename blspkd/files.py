"""Files whole or not at all, rows of JSON, and digests: the only place for each. Standard library only.

Files are written to a temporary name, then renamed: a reader sees the whole file or none, also after `kill -9`.

What a killed process leaves, `<name>.tmp-<place>-<process id>`, is removed by the next process that writes into the
same folder. The place tells machines that share a disk, and containers, from each other: a process id says nothing
elsewhere.
"""

import functools
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blspkd.errors import DataError, refusal

LEFTOVER = re.compile(r".+\.tmp-([0-9a-f]{8})-(\d+)")
WEEK = 7 * 24 * 3600  # seconds without a change, after which a temporary file of another place is nobody's


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`, on an error it is removed.

    The caller may create a file or a directory there. An existing directory at `path` is replaced.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        yield temporary
        _open_to_readers(temporary)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(path)  # what the user knows
        refused = refusal(error, path)  # while the disk is as full as it was
        _remove(temporary)
        if refused is None or refused is error:
            raise
        raise refused from error


@contextmanager
def scratch_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a new folder beside `path`, for what is needed to make it; in the end it is removed."""
    folder = _temporary(Path(f"{path}.scratch"))
    folder.mkdir()
    try:
        yield folder
    finally:
        _remove(folder)


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator:
    """Open `path` for writing UTF-8 text; it appears, complete and on disk, when the block ends without an error."""
    with atomic_path(path) as temporary:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())


def make_folder(path: str | os.PathLike) -> None:
    """Make a folder, with those above it, unless it is there. Raises DataError where it cannot be."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: the folder cannot be made ({reason}); name another place") from None


def write_rows(path: str | os.PathLike, rows: Iterable[dict]) -> None:
    """One line of JSON for each row, atomically."""
    with atomic_write(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_rows(path: Path) -> list[dict]:
    """The rows of a file of `write_rows`. Raises DataError naming file and line."""
    rows = []
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            for line in file:
                rows.append(json.loads(line))
    except FileNotFoundError:
        raise DataError(f"{path}: missing; remove {path.parent} and decode again") from None
    except ValueError as error:
        raise DataError(f"{path}:{len(rows) + 1}: not JSON ({error}); remove {path.parent} and decode again") from None
    return rows


def read_json(path: Path) -> dict:
    """The object in `path`; {} if it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: str | os.PathLike, value: object) -> None:
    """A value that JSON can hold, atomically."""
    with atomic_write(path) as file:
        json.dump(value, file, ensure_ascii=False)


def text_digest(texts: str | Iterable[str]) -> str:
    """SHA-256, in hexadecimal, of a text or of several, one behind the other."""
    digest = hashlib.sha256()
    for text in [texts] if isinstance(texts, str) else texts:
        digest.update(text.encode())
    return digest.hexdigest()


def json_digest(value: object) -> str:
    """SHA-256, in hexadecimal, of a value that JSON can hold; the order of keys does not count."""
    return text_digest(json.dumps(value, sort_keys=True))


def contents_digest(path: str | os.PathLike) -> str:
    """SHA-256, in hexadecimal, of all that a file holds, as `sha256sum` prints it."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def contents_digests(paths: Iterable[Path]) -> dict[str, str]:
    """File -> 16 digits of its contents' digest, for the files at or under `paths`; what is not there is left out."""
    return {file.relative_to(path.parent).as_posix(): contents_digest(file)[:16] for path in paths
            for file in ([path] if path.is_file() else sorted(filter(Path.is_file, path.rglob("*"))))}


def _temporary(path: Path) -> Path:
    """The temporary name of `path`, where nothing stands; what killed processes have left beside it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent.absolute())
    temporary = path.with_name(f"{path.name}.tmp-{place()}-{os.getpid()}")
    _remove(temporary)
    return temporary


@functools.cache
def place() -> str:
    """This machine, or this container: where process ids mean the same thing."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return text_digest(f"{socket.gethostname()} {namespace}")[:8]


@functools.cache  # once per process and folder
def _remove_leftovers(folder: Path) -> None:
    for name in os.listdir(folder):
        found = LEFTOVER.fullmatch(name)
        if found and not _is_owned(folder / name, *found.groups()):
            with suppress(OSError):  # another process may be removing it, or may not let us
                _remove(folder / name)


def _is_owned(path: Path, where: str, process: str) -> bool:
    """Whether somebody may still be writing the temporary file."""
    try:
        if where != place():
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

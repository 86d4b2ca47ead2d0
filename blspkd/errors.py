"""Mistakes that a user can mend.

Every message names the place (file, line or utterance) and the remedy. Commands print the message alone, without
a traceback, and exit with status 1; anything that is not one of these is a bug of ours and keeps its traceback.
A command that a signal has stopped, and that goes on when it is started again, exits with status 75.
"""

import errno
import functools
import os
import re
import resource
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

# What the system refuses and a user can mend; other OSErrors are bugs of ours.
SYSTEM = {errno.ENOSPC: "free some space", errno.EDQUOT: "free some space", errno.EFBIG: "raise the limit (ulimit -f)",
          errno.EROFS: "write to another place", errno.EACCES: "mend the permissions",
          errno.EPERM: "mend the permissions", errno.ELOOP: "mend the links",
          errno.EIO: "see whether a quota is used up or the disk is damaged,",
          errno.EMFILE: "raise the limit (ulimit -n)", errno.ENAMETOOLONG: "give a shorter name",
          errno.ENOTDIR: "name another place", errno.EISDIR: "name another place", errno.EEXIST: "name another place"}
STOPPED = 75  # exit status of what a signal has stopped: the same command goes on later (EX_TEMPFAIL of sysexits.h)
REFUSED = 78  # 1 for whoever starts us; tells blspkd.bin.launch that another try would end in the same way
FULL = {errno.ENOSPC, errno.EDQUOT}
SMALL = 16 << 20  # bytes: a disk with less is full
NUMBERED = re.compile(r"\(os error (\d+)\)")  # safetensors and tokenizers
# torch.save, numpy's tofile and soundfile do not say why they could not write.
UNEXPLAINED = re.compile(r"PytorchStreamWriter|unexpected pos|iostream error|requested and \d+ written|"
                         r"^System error\.$")
# Before the message of an error that a data loader's process raised.
_ELSEWHERE = re.compile(r"Caught \w+ in DataLoader worker.*\nblspkd\.errors\.\w+: ", re.DOTALL)
# What a text could make a terminal do: move its cursor, change its title, answer as if somebody had typed.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class BlspkdError(Exception):
    """Base of all errors that the user can mend."""


class ConfigError(BlspkdError):
    """An unknown key, a value out of range, or options that contradict each other."""


class DataError(BlspkdError):
    """A data directory that breaks Kaldi's rules, or contents that cannot be used."""


class AudioError(DataError):
    """A recording that is missing, unreadable, empty, not finite, or has channels that nobody chose among."""


class MessageError(DataError):
    """A conversation whose messages cannot be read."""


class ContextError(DataError):
    """A conversation that is longer than what the LLM can read at once."""


class ModelError(BlspkdError):
    """A model path that is not there, or models that do not fit together."""


class Stopped(BaseException):
    """A signal has stopped this command, which loses nothing: the same command goes on later.

    Without a message where another process says it.
    """


def refusal(error: BaseException, path: str | os.PathLike | None = None) -> OSError | None:
    """The system's refusal that `error` tells of, whichever library raised it; None where it tells of none.

    path: the file that was being written, for a refusal that does not name one.
    """
    filename = None if path is None else os.fspath(path)
    if isinstance(error, OSError) and error.errno is not None:
        error.filename = filename if error.filename is None else error.filename
        return error
    numbered = NUMBERED.search(str(error))
    if isinstance(error, BlspkdError) or not (numbered or UNEXPLAINED.search(str(error))):
        return None
    number = int(numbered[1]) if numbered else _why_not_written(filename)
    return OSError(number, os.strerror(number), filename) if number in SYSTEM else None


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """In this block, refusals that name no file are about `path`; they are raised as OSError."""
    try:
        yield
    except Exception as error:
        refused = refusal(error, path)
        if refused is None or refused is error:
            raise
        raise refused from error


def _why_not_written(filename: str | None) -> int:
    """The likely number of a refusal that nobody explained."""
    if _free(filename) < SMALL:
        return errno.ENOSPC
    return errno.EIO if resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY else errno.EFBIG


def _free(filename: str | None) -> int:
    """Bytes that are free where the file is, or here."""
    place = Path(filename or ".").absolute()
    return shutil.disk_usage(next(parent for parent in (place, *place.parents) if parent.exists())).free


def for_stream(text: str, stream: TextIO) -> str:
    """`text` as it may be written to `stream`: without control characters where that is a terminal."""
    return _CONTROL.sub("", text) if stream is not None and stream.isatty() else text


def _message(refused: OSError) -> str:
    is_full = refused.errno in FULL and refused.filename
    free = f" ({_free(refused.filename) / 1e6:.0f} MB free)" if is_full else ""
    return (f"{refused.filename or 'a file'}: {refused.strerror}{free}; {SYSTEM[refused.errno]} and start the same "
            "command again")


def _tell_refusal(error: BaseException) -> bool:
    """Print the message where `error` is a refusal that a user can mend; whether it is one."""
    refused = refusal(error)
    if refused is None or refused.errno not in SYSTEM:
        return False
    print(for_stream(f"error: {_message(refused)}", sys.stderr), file=sys.stderr)
    return True


def _refused_status() -> int:
    """Of one of several processes that train together: what keeps them from being started again."""
    return REFUSED if "TORCHELASTIC_RUN_ID" in os.environ else 1


def command(main: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command's `main`: a `BlspkdError`, or a full disk, becomes one message on stderr and a status."""

    @functools.wraps(main)
    def run(*args, **kwargs):
        before = threading.excepthook
        threading.excepthook = lambda raised: _tell_refusal(raised.exc_value) or before(raised)
        refused = False
        try:
            return main(*args, **kwargs)
        except BlspkdError as error:
            print(for_stream(f"error: {_ELSEWHERE.sub('', str(error)).rstrip()}", sys.stderr), file=sys.stderr)
            sys.exit(_refused_status())
        except Stopped as stopped:
            if str(stopped):
                print(f"{stopped}; start the same command again to go on from here", file=sys.stderr)
            sys.exit(STOPPED)
        except KeyboardInterrupt:
            print("interrupted; start the same command again to go on from here", file=sys.stderr)
            sys.exit(130)
        except Exception as error:
            refused = _tell_refusal(error)
            if not refused:
                raise
            sys.exit(_refused_status())
        finally:
            if not refused:  # a thread may meet the same full disk later
                threading.excepthook = before

    return run

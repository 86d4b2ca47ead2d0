"""Mistakes that a user can mend.

Every message names the place (file, line or utterance) and the remedy. Commands print the message alone, without
a traceback, and exit with status 1; anything that is not one of these is a bug of ours and keeps its traceback.
"""

import errno
import functools
import sys
from collections.abc import Callable

# What the system refuses and a user can mend; other OSErrors are bugs of ours.
SYSTEM = {errno.ENOSPC: "free some space", errno.EDQUOT: "free some space", errno.EFBIG: "raise the limit (ulimit -f)",
          errno.EROFS: "write to another place", errno.EACCES: "mend the permissions",
          errno.EPERM: "mend the permissions", errno.EIO: "the disk may be damaged", errno.ELOOP: "mend the links",
          errno.EMFILE: "raise the limit (ulimit -n)", errno.ENAMETOOLONG: "give a shorter name",
          errno.ENOTDIR: "name another place", errno.EISDIR: "name another place", errno.EEXIST: "name another place"}


class BlspkdError(Exception):
    """Base of all errors that the user can mend."""


class ConfigError(BlspkdError):
    """An unknown key, a value out of range, or options that contradict each other."""


class DataError(BlspkdError):
    """A data directory that breaks Kaldi's rules, or contents that cannot be used."""


class AudioError(DataError):
    """A recording that is missing, unreadable, empty, not finite, or has channels that nobody chose among."""


class ModelError(BlspkdError):
    """A model path that is not there, or models that do not fit together."""


def command(main: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command's `main`: a `BlspkdError`, or a full disk, becomes one message on stderr and exit status 1."""

    @functools.wraps(main)
    def run(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except BlspkdError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except OSError as error:
            if error.errno not in SYSTEM:
                raise
            print(f"error: {error.filename or 'a file'}: {error.strerror}; {SYSTEM[error.errno]} and start the same "
                  "command again", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            print("interrupted; start the same command again to go on from here", file=sys.stderr)
            sys.exit(130)

    return run

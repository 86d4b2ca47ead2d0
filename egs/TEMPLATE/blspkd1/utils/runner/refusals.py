"""One message, not a traceback, when the system refuses to write a file. Standard library only."""

import errno
import os
import shutil
import sys
from collections.abc import Callable

REMEDIES = {errno.ENOSPC: "free some space", errno.EDQUOT: "free some space",
            errno.EFBIG: "raise the limit (ulimit -f)", errno.EROFS: "write to another place",
            errno.EACCES: "change the permissions", errno.EIO: "see whether a quota is used up or the disk is damaged,"}


def tell_refusals(program: str, main: Callable[[], int | None]) -> None:
    """Run `main` and exit with its status; an error of REMEDIES becomes one message on stderr and status 1."""
    try:
        sys.exit(main())
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        free = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = os.path.dirname(os.path.abspath(error.filename or "."))
            free = f" ({shutil.disk_usage(place).free / 1e6:.0f} MB free)"
        print(f"{program}: {error.filename or 'a file'}: {error.strerror}{free}; {REMEDIES[error.errno]} and start the "
              "same command again", file=sys.stderr, flush=True)
        os._exit(1)  # not sys.exit: it would try once more to write what cannot be written

"""Leases: which process works on what, told by files in a folder that several machines may share (NFS included).

A lease is taken by giving a file that is written already its name, with a hard link: one process succeeds, the others
see that the name is there (`O_EXCL`, where a disk knows no links). A thread renews it while its process lives, by the
date of the file. One that has not been renewed for `STALE` seconds is nobody's (nor is one dated as far ahead: somebody
has set the clock back), and so is one whose process is known to be dead, on this machine. Dates are those of the disk's
server, by which the time is asked too: clocks of machines differ. To take over is to rename the file that is there to a
name of one's own; of several, one succeeds.

A process that is killed leaves its lease; the next one counts it as a death (`Lease.deaths`). One that a signal stops,
or that ends with a message for the user, gives its lease back.
"""

import errno
import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep

from blspkd.errors import BlspkdError, Stopped, writing
from blspkd.files import place

STALE = 120.0  # seconds without a sign of life
BEAT = 15.0  # seconds between two signs of life; a disk that does not answer may swallow some
PATIENCE = 2.0  # seconds between two looks at what others are working on
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class Lease:
    """The right to work on something, as long as it is renewed."""

    def __init__(self, path: Path, mark: str, deaths: int, file: int):
        self.path, self.mark = path, mark
        self.deaths = deaths  # processes that were killed while they had it
        self._file = file  # opened: the file itself is renewed, whatever has its name by now

    @property
    def note(self) -> Path:
        """A file beside it, for what the next one shall know if this process is killed."""
        return self.path.with_suffix(".note")

    def renew(self) -> None:
        """Show that its process lives."""
        os.utime(self._file)

    def is_ours(self) -> bool:
        """Whether nobody has taken it over, as happens when this process stood still for too long."""
        return _read(self.path).get("mark") == self.mark

    def release(self) -> None:
        """Give it back: it is done, or the next one shall not take it for a death."""
        if self.is_ours():
            self.path.unlink(missing_ok=True)
        os.close(self._file)

    def finish(self) -> None:
        """What it is for is done: nobody needs the note."""
        self.note.unlink(missing_ok=True)
        self.release()

    def abandon(self) -> None:
        """Leave it as a process does that is killed, but so that nobody has to wait."""
        os.utime(self._file, (0, 0))
        os.close(self._file)


class Leases:
    """The leases of a folder, as one process sees them.

    stale, beat: seconds. now: the time by which the dates of files there are set; that of the disk's server.
    """

    def __init__(self, folder: Path, stale: float = STALE, beat: float = BEAT, now: Callable[[], float] | None = None):
        self.folder, self.stale, self.beat = Path(folder), stale, beat
        self._own = f"{place()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._now = now or self._server_time
        self.folder.mkdir(parents=True, exist_ok=True)

    def take(self, name: str) -> Lease | None:
        """The lease `name`, a path in the folder without an ending; None while another process has it."""
        path = self.folder / f"{name}.lease"
        path.parent.mkdir(parents=True, exist_ok=True)
        deaths = 0
        if path.exists():
            before = self._take_away(path)
            if before is None:
                return None
            deaths = before["deaths"] + 1 if isinstance(before.get("deaths"), int) else 1
        mark = uuid.uuid4().hex
        contents = {"mark": mark, "deaths": deaths, "place": place(), "process": os.getpid(),
                    "host": socket.gethostname()}
        with writing(path):
            file = self._create(path, contents)
        return None if file is None else Lease(path, mark, deaths, file)

    @contextmanager
    def kept_alive(self, lease: Lease) -> Iterator[Lease]:
        """In this block a thread renews the lease."""
        end = threading.Event()

        def beat() -> None:
            while not end.wait(self.beat):
                with suppress(OSError):  # a disk that does not answer now may do so the next time
                    lease.renew()

        thread = threading.Thread(target=beat, name=f"lease {lease.path.stem}", daemon=True)
        thread.start()
        try:
            yield lease
        finally:
            end.set()
            thread.join()

    def _create(self, path: Path, contents: dict) -> int | None:
        """Make the file of a lease, whole and once, and open it; None if another process was faster."""
        own = path.with_name(f"{path.name}.{self._own}")
        try:
            own.write_text(json.dumps(contents), encoding="utf-8")
            with suppress(FileExistsError):
                os.link(own, path)
                return _opened(path, own)
            is_ours = _read(path).get("mark") == contents["mark"]  # NFS may have lost the answer, and asked again
            return _opened(path, own) if is_ours else None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        finally:
            own.unlink(missing_ok=True)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return None
        os.write(file, json.dumps(contents).encode())
        return file

    def _take_away(self, path: Path) -> dict | None:
        """What a lease of a dead process says, which is removed; None if it may live, or another one was faster."""
        try:
            now = self._now()
            if self._may_live(path, now):
                return None
            own = path.with_name(f"{path.name}.{self._own}.old")
            os.rename(path, own)
        except FileNotFoundError:
            return None
        contents, may_live = _read(own), self._may_live(own, now)
        if may_live:  # between the look and the grip another process took it over: hand it back
            with suppress(FileExistsError):
                os.link(own, path)
        own.unlink()
        return None if may_live else contents

    def _may_live(self, path: Path, now: float) -> bool:
        return abs(now - path.stat().st_mtime) < self.stale and not _is_dead(_read(path))

    def _server_time(self) -> float:
        own = self.folder / f"clock.{self._own}"
        with open(own, "w", encoding="utf-8") as file:
            os.utime(file.fileno())
            seconds = os.fstat(file.fileno()).st_mtime
        own.unlink(missing_ok=True)
        return seconds


def share(names: Sequence[str], leases: Leases, is_done: Callable[[int], bool], work: Callable[[int, Lease], None],
          first: int = 0) -> None:
    """Do `work` on everything in `names` that is not done and that no other process works on, until all is done.

    is_done, work: are told the place of a name. first: where this process begins; others begin elsewhere, so that they
    seldom want the same. What others have taken is waited for in the end: one of them may die.
    """
    todo = [(first + step) % len(names) for step in range(len(names))]
    while todo:
        others = []
        for index in todo:
            if is_done(index):
                continue
            lease = leases.take(names[index])
            if lease is None:
                others.append(index)
                continue
            try:
                if not is_done(index):  # else it was finished between the two looks
                    with leases.kept_alive(lease), writing(leases.folder.parent):  # where no file is named
                        work(index, lease)
            except (BlspkdError, Stopped, KeyboardInterrupt, SystemExit):
                lease.release()
                raise
            except BaseException:  # a bug, or a device that is of no use any more: the next one is to be careful
                lease.abandon()
                raise
            lease.finish()
        if len(others) == len(todo):
            sleep(PATIENCE)
        todo = others


def _opened(path: Path, own: Path) -> int:
    """The file of a new lease, which has both names; another process may have gripped the first for an instant."""
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return os.open(own, os.O_RDONLY)


def _read(path: Path) -> dict:
    """What a lease says; {} where there is none, or it is being written."""
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return contents if isinstance(contents, dict) else {}


def _is_dead(contents: dict) -> bool:
    """Whether the process that has a lease is known to be dead: it ran here."""
    if contents.get("place") != place():
        return False
    try:
        os.kill(int(contents["process"]), 0)
        state = Path(f"/proc/{contents['process']}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return True
    except (KeyError, TypeError, ValueError, OSError, OverflowError, IndexError):
        return False
    return state in "ZX"  # killed, and its parent has not looked yet

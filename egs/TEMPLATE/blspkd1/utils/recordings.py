"""What says whether the recordings of a wav.scp changed: a few bytes for each. Standard library only."""

import base64
import functools
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

SHOWN = 3  # recordings named in a message


def recordings(scp: Path) -> Iterator:
    """(name, entry) of each line of a wav.scp."""
    with open(scp, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            name, _, entry = line.strip().replace("\t", " ", 1).partition(" ")
            yield name, entry.strip()


def audio_states(scp: Path) -> str:
    """Four bytes for each recording of a wav.scp, in its order: of its entry, and of its file's size and date."""
    states = (f"{entry} {size_and_date(entry)}".encode("utf-8", "surrogateescape") for _, entry in recordings(scp))
    return base64.b85encode(b"".join(zlib.crc32(state).to_bytes(4, "big") for state in states)).decode()


def changed_recordings(scp: Path, before: str, after: str) -> str:
    old, new = base64.b85decode(before), base64.b85decode(after)
    changed = [f"{name} ({entry})" for place, (name, entry) in enumerate(recordings(scp))
               if old[4 * place:4 * place + 4] != new[4 * place:4 * place + 4]]
    more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    return f"{len(changed)} of {len(new) // 4} recordings changed: {', '.join(changed[:SHOWN])}{more}"


@functools.lru_cache(maxsize=1024)  # neighbours are in one archive
def size_and_date(entry: str):
    """Of the file that an entry of a wav.scp names, `file.ark:offset` too; None of a command, and where none is."""
    archive = re.fullmatch(r"(.+):\d+", entry)
    if archive and not os.path.exists(entry):
        return size_and_date(archive[1])
    try:
        status = os.stat(entry)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns

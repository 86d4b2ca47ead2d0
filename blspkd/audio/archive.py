"""Audio files inside a larger file, read without their neighbours.

They are in a Kaldi archive (`file.ark:offset`), or in a shard of a packed data directory (`shard.arrow:offset+bytes`).
"""

import functools
import io
import os
import re
import weakref

from blspkd.audio.byte_ranges import ByteRanges
from blspkd.errors import AudioError

OPEN_SHARDS = 128  # that a process keeps open: an utterance then costs a read, and no opening
_ENTRY = re.compile(r"(.+):\d+")
_PIECE = re.compile(r"(.+\.arrow):(\d+)\+(\d+)")


def file_of(path: str) -> str:
    """The file to look for: `a.ark` for `a.ark:123`, `a.arrow` for `a.arrow:12+345`, else `path` itself."""
    if piece := _PIECE.fullmatch(path):
        return piece[1]
    match = _ENTRY.fullmatch(path)
    return match[1] if match and not os.path.exists(path) else path


def piece_of(shard: str, offset: int, length: int) -> str:
    """The path of these bytes."""
    return f"{shard}:{offset}+{length}"


def read_piece(path: str) -> bytes | None:
    """The bytes that `shard.arrow:offset+bytes` names; None of any other path. Raises AudioError where they lack."""
    piece = _PIECE.fullmatch(path)
    if piece is None:
        return None
    try:
        data = read_bytes(piece[1], int(piece[2]), int(piece[3]))
    except FileNotFoundError:
        raise AudioError(f"{path}: there is no such shard; pack the directory again, which remakes it alone") from None
    if len(data) < int(piece[3]):
        raise AudioError(f"{path}: the shard is truncated; pack the directory again, which remakes this shard alone")
    return data


def read_bytes(shard: str, offset: int, length: int) -> bytes:
    """`length` bytes from `offset` on, fewer where the file ends before; the file stays open. Raises OSError."""
    descriptor, parts, done = _opened(shard).descriptor, [], 0
    while done < length and (part := os.pread(descriptor, length - done, offset + done)):
        parts.append(part)
        done += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class _Opened:
    """A file that is closed when nobody refers to it any more; processes that were forked share no position in it."""

    def __init__(self, path: str):
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)


_opened = functools.lru_cache(maxsize=OPEN_SHARDS)(_Opened)
close_shards = _opened.cache_clear  # others may stand under their names now


def open_entry(file: io.BufferedIOBase, offset: int, path: str) -> ByteRanges:
    """The audio file inside the Kaldi archive `file` at `offset`, as a file. Raises AudioError, which names `path`."""
    file.seek(offset)
    head = file.read(16)
    if head[:4] == b"RIFF":
        start, length = offset, 8 + int.from_bytes(head[4:8], "little")
    elif head[:5] == b"AUDIO":  # kaldiio: width of the length, length, an encoded file
        width = head[5] if len(head) > 5 else 0
        start, length = offset + 6 + width, int.from_bytes(head[6 : 6 + width], "little")
    else:
        raise AudioError(f"{path}: there is no audio at this offset of the archive (matrices have no sampling rate); "
                         "write the archive with Kaldi's wav-copy, and mend wav.scp")
    if start + length > os.fstat(file.fileno()).st_size:
        raise AudioError(f"{path}: the archive is truncated, or this entry's length is unknown; write it again")
    return ByteRanges(file, (start, start + length))

"""Audio files inside a Kaldi archive (`file.ark:offset`), read without their neighbours."""

import io
import os

from blspkd.errors import AudioError


class Window(io.RawIOBase):
    """`length` bytes of an open file from `start` on, as a file of its own."""

    def __init__(self, file: io.BufferedIOBase, start: int, length: int):
        self.file, self.start, self.length, self.position = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.length}[whence]
        self.position = max(0, base + offset)
        return self.position

    def readinto(self, buffer) -> int:
        wanted = min(len(buffer), max(0, self.length - self.position))
        self.file.seek(self.start + self.position)
        data = self.file.read(wanted)
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def open_entry(file: io.BufferedIOBase, offset: int, path: str) -> Window:
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
    return Window(file, start, length)

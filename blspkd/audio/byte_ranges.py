"""Ranges of bytes of an open file, one behind the other, as a file of its own: nothing else of it is read."""

import io


class ByteRanges(io.RawIOBase):
    """The bytes [start, end) of each range, in the given order."""

    def __init__(self, file: io.BufferedIOBase, *ranges: tuple[int, int]):
        self.file, self.ranges, self.position = file, ranges, 0
        self.length = sum(end - start for start, end in ranges)

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
        """Fills the buffer across ranges: to libsndfile, less than it asked for is the end of the file."""
        data, skipped = b"", self.position
        for start, end in self.ranges:
            if skipped < end - start and len(data) < len(buffer):
                self.file.seek(start + skipped)
                data += self.file.read(min(len(buffer) - len(data), end - start - skipped))
            skipped = max(0, skipped - (end - start))
        buffer[:len(data)] = data
        self.position += len(data)
        return len(data)

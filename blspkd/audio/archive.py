"""Audio files inside a Kaldi archive (`file.ark:offset`), read without their neighbours."""

import io
import os

from blspkd.audio.byte_ranges import ByteRanges
from blspkd.errors import AudioError


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

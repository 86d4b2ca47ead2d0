"""How long an mp3 stream really is: by walking over the headers of its frames, without decoding.

An mp3 file has no length of its own. Encoders note it in the first frame (Xing, Info, VBRI); where that is missing, or
where files were written one behind the other, decoders guess it from the first frames' bit rate.
Headers: ISO/IEC 11172-3 and 13818-3, layer III.
"""

import io
import mmap
from dataclasses import dataclass

_KBITS = {3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG 1
          2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)}  # MPEG 2 and 2.5
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_LAYER_3 = 1


@dataclass(frozen=True)
class _Frame:
    size: int  # bytes
    samples: int


def count_samples(raw: io.RawIOBase) -> int:
    """Samples per channel in all frames of layer III of an open file, whose position stays; 0 if there are none."""
    try:
        with mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as data:  # hours are not to fill the memory
            return _count(data)
    except io.UnsupportedOperation:  # an archive's entry
        position = raw.tell()
        raw.seek(0)
        data = raw.read()
        raw.seek(position)
        return _count(data)


def _count(data: bytes | mmap.mmap) -> int:
    place = total = 0
    while 0 <= place < len(data):
        frame = _frame(data, place)
        if frame:
            total += frame.samples
            place += frame.size
        else:
            place = place + size if (size := _tag_size(data[place:place + 10])) else _next_frame(data, place)
    return total


def _tag_size(head: bytes) -> int:
    """Bytes of the ID3v2 tag that begins with these ten, 0 if none does: its size is in four bytes of seven bits."""
    if len(head) < 10 or not head.startswith(b"ID3") or head[3] == 0xFF or max(head[6:10]) > 127:
        return 0
    return 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))


def _frame(data: bytes | mmap.mmap, place: int) -> _Frame | None:
    """The frame whose header is at `place`; None if there is no such header."""
    if place + 4 > len(data) or data[place] != 0xFF or data[place + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[place + 1] >> 3 & 3, data[place + 1] >> 1 & 3
    kbits, rate, padding = data[place + 2] >> 4, data[place + 2] >> 2 & 3, data[place + 2] >> 1 & 1
    if version == 1 or layer != _LAYER_3 or not 0 < kbits < 15 or rate == 3:
        return None
    samples = 1152 if version == 3 else 576
    bits = 1000 * _KBITS[3 if version == 3 else 2][kbits]
    return _Frame(samples // 8 * bits // _RATES[version][rate] + padding, samples)


def _next_frame(data: bytes | mmap.mmap, place: int) -> int:
    """Where the next frame begins that has another behind it, or ends the file; -1 if there is none."""
    while (place := data.find(b"\xff", place + 1)) >= 0:
        frame = _frame(data, place)
        if frame and (place + frame.size == len(data) or _frame(data, place + frame.size)):
            return place
    return -1

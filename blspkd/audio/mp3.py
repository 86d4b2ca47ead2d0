"""What mp3 needs besides libsndfile: how long a stream really is, a way to its pieces, the decoder's messages.

An mp3 file has no length of its own. Encoders note it in the first frame (Xing, Info, VBRI); where that is missing, or
where files were written one behind the other, decoders guess it from the first frames' bit rate. Walking over the
headers of all frames tells, without decoding. Headers: ISO/IEC 11172-3 and 13818-3, layer III.

It has no index either: to find a piece of it, the decoder walks there from the beginning. Here it is shown a file in
which frames before the piece are missing; that costs a walk once, and then what the piece is long.
"""

import io
import mmap
import os
import re
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

import numpy as np
import soundfile

from blspkd.audio.byte_ranges import ByteRanges

LEAD = 2.0  # seconds decoded before a piece: its first frames need bits from the frames before them
HEAD = 8  # frames at the beginning that the decoder looks at when it opens a file
STEP = 256  # frames between two places in an index
MAX_TRIES = 1 << 16  # places outside of frames that are looked at: megabytes of junk are not to take minutes
MAX_INDICES = 4096  # kept in memory, of 5 KB for an hour

_KBITS = {3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG 1
          2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)}  # MPEG 2 and 2.5
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_LAYER_3 = 1
_MESSAGE = re.compile(rb"\[[^\]]*mpg123[^\]]*\] |(?=Warning: Xing stream size|\s+$)"
                      rb"|(?=Note: (Illegal Audio-MPEG|Trying to resync|Skipped|Hit end|missing))")
# What the decoder says where bits or frames before a piece are missing.
_SEEKING = re.compile("part2_3_length|reservoir|Xing stream size")
_stderr = Lock()
os.register_at_fork(before=_stderr.acquire, after_in_parent=_stderr.release, after_in_child=_stderr.release)
_indices: dict[tuple, "FrameIndex"] = {}


@dataclass(frozen=True)
class FrameIndex:
    """Where the frames of an mp3 stream are."""

    samples: int  # per channel, in all frames of layer III; 0 if there are none
    frame_samples: int
    places: array  # of the frames HEAD, HEAD + STEP, ...: bytes; empty where not all frames are alike and without gaps


class _Frame(NamedTuple):
    size: int  # bytes
    samples: int
    kind: tuple[int, int, bool]  # version, sampling rate, whether it has one channel


class Mp3File(soundfile.SoundFile):
    """An open mp3 file; `key` tells it from others (path, size and date), None: no other will ask for its frames."""

    def __init__(self, raw: io.IOBase, key: tuple | None):
        with caught_messages():  # strange tags are no mistake
            super().__init__(raw)
        self.raw, self.key, self.damage_told = raw, key, False
        self._index = None if key is None else _indices.get(key)

    @property
    def index(self) -> FrameIndex:
        """Where its frames are: they are walked through when this is first asked for."""
        if self._index is None:
            self._index = index_frames(self.raw)
            if self.key is not None:
                if len(_indices) == MAX_INDICES:
                    _indices.clear()
                _indices[self.key] = self._index
        return self._index

    def read_piece(self, first: int, count: int, lead: float = LEAD) -> tuple[np.ndarray, list[str]]:
        """At most `count` samples from `first` on, float32 [n, channels], and what the decoder says of damage.

        lead: seconds decoded before; without, there are samples, but not the right ones.
        """
        before = min(first, round(lead * self.samplerate))
        with caught_messages() as said:
            samples = self._read_from(first - before, before + count)[before:]
        if first or count < self.frames:
            said = [message for message in said if lead and not _SEEKING.search(message)]
        return samples, said

    def _read_from(self, first: int, count: int) -> np.ndarray:
        steps = max(0, first // self.index.frame_samples // STEP - 1) if self.index.places else 0
        if not steps:
            self.seek(first)
            return self.read(count, dtype="float32", always_2d=True)
        position = self.raw.tell()
        head, place, end = self.index.places[0], self.index.places[steps], self.raw.seek(0, io.SEEK_END)
        with soundfile.SoundFile(ByteRanges(self.raw, (0, head), (place, end))) as near:
            near.seek(first - steps * STEP * self.index.frame_samples)
            samples = near.read(count, dtype="float32", always_2d=True)
        self.raw.seek(position)
        return samples


def is_mp3(raw: io.BufferedIOBase) -> bool:
    """Whether an open file begins as mp3 files do; it is at its beginning, before and after."""
    head = raw.read(3)
    raw.seek(0)
    return head == b"ID3" or (len(head) == 3 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)


@contextmanager
def caught_messages() -> Iterator[list[str]]:
    """What the decoder prints on stderr in this block: the list holds it when the block has ended.

    stderr belongs to the process, so that this is for one thread at a time; what others print meanwhile comes out at
    the end.
    """
    said: list[str] = []
    with _stderr, _capture() as capture:
        real = os.dup(2)
        os.dup2(capture.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(real, 2)
            os.close(real)
            capture.seek(0)
            for line in capture:
                message = _MESSAGE.match(line)
                if message:
                    said.append(line[message.end():].decode(errors="replace").strip())
                else:
                    os.write(2, line)


def _capture() -> io.BufferedRandom:
    return open(os.memfd_create("stderr"), "w+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()


def index_frames(raw: io.RawIOBase) -> FrameIndex:
    """Of an open file, whose position stays."""
    try:
        with mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as data:  # hours are not to fill the memory
            return _walk(data)
    except io.UnsupportedOperation:  # an archive's entry
        position = raw.tell()
        raw.seek(0)
        data = raw.read()
        raw.seek(position)
        return _walk(data)


def _walk(data: bytes | mmap.mmap) -> FrameIndex:
    place = end = total = number = 0
    places, alike, kind = array("Q"), True, None
    tries = iter(range(MAX_TRIES))
    while 0 <= place < len(data):
        frame = _frame(data, place)
        if frame:
            if number and (place != end or frame.kind != kind):
                alike = False
            if number % STEP == HEAD:
                places.append(place)
            kind = frame.kind
            total += frame.samples
            number += 1
            place = end = place + frame.size
        else:
            place = place + size if (size := _tag_size(data[place:place + 10])) else _next_frame(data, place, tries)
    return FrameIndex(total, total // max(1, number), places if alike else array("Q"))


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
    return _Frame(samples // 8 * bits // _RATES[version][rate] + padding, samples,
                  (version, rate, data[place + 3] >> 6 == 3))


def _next_frame(data: bytes | mmap.mmap, place: int, tries: Iterator[int]) -> int:
    """Where the next frame begins that has another behind it, or ends the file; -1 if there is none in `tries`."""
    for _ in tries:
        place = data.find(b"\xff", place + 1)
        if place < 0:
            break
        frame = _frame(data, place)
        if frame and (place + frame.size == len(data) or _frame(data, place + frame.size)):
            return place
    return -1

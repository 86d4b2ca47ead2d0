"""Ranges of a file read like a file that holds their bytes and nothing else."""

import io
import tempfile

from hypothesis import given
from hypothesis import strategies as st

from blspkd.audio.byte_ranges import ByteRanges

CONTENTS = bytes(range(200))
RANGES = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)).map(sorted).map(tuple), max_size=4)
STEPS = st.lists(st.tuples(st.integers(-10, 250), st.sampled_from([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END]),
                           st.integers(0, 120)), max_size=8)


@given(ranges=RANGES, steps=STEPS)
def test_seeking_and_reading_is_that_of_the_bytes_alone(ranges, steps):
    alone = io.BytesIO(b"".join(CONTENTS[start:end] for start, end in ranges))
    with tempfile.TemporaryFile() as file:
        file.write(CONTENTS)
        shown = ByteRanges(file, *ranges)
        for offset, whence, count in steps:
            base = {io.SEEK_SET: 0, io.SEEK_CUR: alone.tell(), io.SEEK_END: len(alone.getvalue())}[whence]
            place = max(0, base + offset)
            alone.seek(place)
            assert shown.seek(offset, whence) == place
            asked = bytearray(count)
            read = shown.readinto(asked)
            assert bytes(asked[:read]) == alone.read(count) and shown.tell() == alone.tell()

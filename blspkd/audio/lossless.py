"""One utterance's audio as the bytes of a file of its own, with the very samples that `load` reads from its source."""

import io

import numpy as np
import soundfile

from blspkd.audio.archive import file_of, open_entry, read_piece
from blspkd.audio.samples import AudioSource, duration, open_file, read
from blspkd.errors import AudioError


def encoded(source: AudioSource) -> bytes:
    """The bytes of the file or archive entry that `source` is, or, of a segment or a channel, a new file.

    A new file is flac where the samples have 24 bits or fewer, else (what was decoded from mp3, say) wav with float
    samples. Raises AudioError wherever loading would.
    """
    is_whole = not source.start and source.end is None
    if not is_whole or source.channel is not None:
        with open_file(source.path) as file:
            if not is_whole or file.channels > 1:
                return encoded_samples(read(file, source), file.samplerate)
    duration(source)  # raises for what is truncated, and where a channel has to be chosen
    return _bytes_of(source.path)


def encoded_samples(samples: np.ndarray, rate: int) -> bytes:
    """float32 [samples], finite -> a file that holds them to the last bit."""
    for bits, kind in ((16, np.int16), (24, np.int32)):
        whole = samples.astype(np.float64) * 2 ** (bits - 1)
        if np.array_equal(whole, np.rint(whole)) and np.abs(whole + 0.5).max() < 2 ** (bits - 1):
            data = _written(whole.astype(kind) << (8 if bits == 24 else 0), rate, f"PCM_{bits}", "FLAC")
            if data and _holds(data, samples, rate):
                return data
    data = _written(samples, rate, "FLOAT", "WAV")
    assert _holds(data, samples, rate), "wav holds float samples as they are"
    return data


def _written(samples: np.ndarray, rate: int, subtype: str, form: str) -> bytes:
    """The bytes of the file; none where the format does not know the rate."""
    file = io.BytesIO()
    try:
        soundfile.write(file, samples, rate, subtype=subtype, format=form)
    except soundfile.LibsndfileError:
        return b""
    return file.getvalue()


def _holds(data: bytes, samples: np.ndarray, rate: int) -> bool:
    found, found_rate = soundfile.read(io.BytesIO(data), dtype="float32")
    return found_rate == rate and found.tobytes() == samples.tobytes()


def _bytes_of(path: str) -> bytes:
    """All bytes of a file, an archive's entry or a shard's piece."""
    place = file_of(path)
    try:
        if (piece := read_piece(path)) is not None:
            return piece
        with open(place, "rb") as file:
            return file.read() if place == path else open_entry(file, int(path.rpartition(":")[2]), path).readall()
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error.strerror}") from None

"""One utterance's samples. This is the only module that opens audio, files and encoded data in memory.

Formats are those of libsndfile: wav (every PCM width, float, extensible), flac, ogg (Vorbis, Opus), mp3, NIST SPHERE
and more; besides, entries `file.ark:offset` of a Kaldi archive that holds wav data (as `wav-copy` writes it) or
encoded files (as kaldiio writes them), and pieces `shard.arrow:offset+bytes` of a packed directory. Archives are read
here and not by kaldiio, so that an utterance costs only its own bytes, and because kaldiio unpickles what it finds.
Reading a segment of a long file seeks to it and reads little else; mp3 alone has no index, so that its frames are
walked through (0.15 s for an hour) once in every process.

What cannot be used as it is ends in an AudioError that names the file: missing, not a regular file, undecodable,
truncated, without samples, NaN or Inf, several channels of which nobody chose one, a segment outside the recording.
Any sampling rate is accepted: `load` resamples (soxr, high quality).
"""

import io
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr

from blspkd.audio.archive import file_of, open_entry, read_piece
from blspkd.audio.header import check_complete, check_length, compression
from blspkd.audio.mp3 import LEAD, Mp3File, is_mp3
from blspkd.errors import AudioError

USUAL_RATE = 16000  # Hz, of what speech encoders read
MAX_OVERSHOOT = 0.5  # seconds a segment may reach past the end of its recording: as Kaldi's extract-segments
MAX_PEAK = 8.0  # float samples above 1 are clipped; far above they are on another scale, e.g. that of 16 bit integers
MP3_SLACK = 3 * 1152  # samples that an mp3 file may lack against what its header announces: three frames

logger = logging.getLogger(__name__)
_damaged: set[str] = set()  # paths of which this was told
_BLOCK = 1 << 20  # samples of one or two channels that are decoded at once; of more channels fewer
_WAV_SUBTYPES = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
_MISSING = "mend wav.scp (relative paths count from the working directory) or run `utils/fix_data_dir.sh DIR`"


@dataclass(frozen=True, slots=True)
class AudioSource:
    """Where samples are: a file or `file.ark:offset`, from `start` to `end` seconds (None: to the end of the file).

    channel: counted from 0; None is right only where the file has one channel.
    """

    path: str
    start: float = 0.0
    end: float | None = None
    channel: int | None = None


def load(source: AudioSource | str, sampling_rate: int = USUAL_RATE) -> np.ndarray:
    """Samples of `source`: float32 [samples] in [-1, 1] at `sampling_rate` Hz; raises AudioError."""
    source = _as_source(source)
    with open_file(source.path) as file:
        try:
            samples = resampled(read(file, source), file.samplerate, sampling_rate, _name(source))
            return np.clip(samples, -1.0, 1.0, out=samples)
        except MemoryError:
            hours = _frames(file, source)[1] / file.samplerate / 3600
            raise AudioError(f"{_name(source)}: {hours:.1f} hours do not fit into memory; cut the recording by "
                             "`segments`, leave it out, or allow more memory (ulimit -v)") from None


def resampled(samples: np.ndarray, rate: float, sampling_rate: int, name: str) -> np.ndarray:
    """`samples`, [samples] at `rate` Hz, at `sampling_rate` Hz; raises AudioError where none is left."""
    if rate != sampling_rate:
        samples = soxr.resample(samples, rate, sampling_rate)
    if not len(samples):
        raise AudioError(f"{name}: too short to be resampled to {sampling_rate} Hz; leave it out")
    return samples


def duration(source: AudioSource | str) -> float:
    """Seconds of `source`, from the header; raises AudioError wherever `load` at the usual rate would.

    Samples are read only to make sure that the last one is there and, in float formats, that all are finite.
    """
    result = durations([_as_source(source)])[0]
    if isinstance(result, AudioError):
        raise result
    return result


def durations(sources: list[AudioSource]) -> list[float | AudioError]:
    """`duration` of many sources of one and the same file, which is opened once; errors are returned, not raised."""
    assert len({source.path for source in sources}) <= 1, "the sources are to be of one file"
    results: list[float | AudioError] = []
    try:
        with open_file(sources[0].path) as file:
            for source in sources:
                try:
                    results.append(_duration(file, source))
                except AudioError as error:
                    results.append(error)
    except AudioError as error:
        return [error] * len(sources)
    return results


def copy_to_wav(path: str, destination: str | os.PathLike) -> None:
    """Write the audio file `path`, whatever its format, as wav with the same samples, rate and channels."""
    with open_file(path) as file:
        subtype = file.subtype if file.subtype in _WAV_SUBTYPES else "PCM_16"
        large = file.frames * file.channels * 8 >= 1 << 32
        with soundfile.SoundFile(destination, "w", file.samplerate, file.channels, subtype,
                                 format="RF64" if large else "WAV") as copy:
            for block in _blocks(file, AudioSource(path), 0, file.frames):
                copy.write(block)


def sampling_rate(source: AudioSource | str) -> int:
    """Hz of the file that `source` is in; raises AudioError."""
    with open_file(_as_source(source).path) as file:
        return file.samplerate


def write_wav(path: str | os.PathLike, samples: np.ndarray, rate: int) -> None:
    """Write samples [samples] in [-1, 1] as 16-bit wav, whatever the ending of `path`."""
    soundfile.write(path, samples, rate, subtype="PCM_16", format="WAV")


def is_command(path: str) -> bool:
    """True for a wav.scp entry that is a pipe (`sph2pipe ... |`) or standard input, not a file."""
    return path.endswith("|") or path.startswith("|") or path == "-"


def size_and_date(path: str) -> tuple[int, int] | None:
    """Bytes and nanoseconds of the file of a wav.scp entry; None where it is not there, which loading will report."""
    try:
        status = os.stat(file_of(path))
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _duration(file: soundfile.SoundFile, source: AudioSource) -> float:
    first, count = _frames(file, source)
    if round(count * USUAL_RATE / file.samplerate) < 1:
        raise AudioError(f"{_name(source)}: too short to be resampled to {USUAL_RATE} Hz; leave it out")
    if file.subtype in ("FLOAT", "DOUBLE"):
        blocks = _checked_blocks(file, source)
    else:
        slack = MP3_SLACK if file.format == "MP3" else 0
        blocks = _blocks(file, source, first + max(0, count - 1 - slack), 1, lead=0.0)
    for _ in blocks:
        pass
    return count / file.samplerate


def read(file: soundfile.SoundFile, source: AudioSource) -> np.ndarray:
    """Samples of the chosen channel and segment: float32 [samples] at the file's own rate, finite."""
    samples = np.empty(_frames(file, source)[1], np.float32)
    done = 0
    for block in _checked_blocks(file, source):
        samples[done:done + len(block)] = block
        done += len(block)
    return samples[:done]


def _checked_blocks(file: soundfile.SoundFile, source: AudioSource) -> Iterator[np.ndarray]:
    """The same block by block, each as soon as it is known to be finite."""
    first, count = _frames(file, source)
    peak = 0.0
    for block in _blocks(file, source, first, count):
        samples = block[:, source.channel or 0]
        if not np.isfinite(samples).all():
            bad = first + int(np.flatnonzero(~np.isfinite(samples))[0])
            raise AudioError(f"{_name(source)}: NaN or Inf at sample {bad}; write the file again or leave it out")
        peak = max(peak, float(np.abs(samples).max()))
        first += len(samples)
        yield samples
    if peak > MAX_PEAK:
        raise AudioError(f"{_name(source)}: samples reach {peak:.4g}, float audio has to be within -1 and 1; scale it "
                         "(16 bit integers stored as float: divide by 32768)")


def _frames(file: soundfile.SoundFile, source: AudioSource) -> tuple[int, int]:
    """First sample and number of samples of `source`, after checking channel and segment against the file."""
    name, rate = _name(source), file.samplerate
    if source.channel is None and file.channels > 1:
        raise AudioError(f"{name}: has {file.channels} channels and none is chosen; choose one (counted from 0), e.g. "
                         "`utils/data_dir.sh choose_channel DIR 0`")
    if source.channel is not None and not 0 <= source.channel < file.channels:
        raise AudioError(f"{name}: channel {source.channel} is chosen but the file has channels 0 to "
                         f"{file.channels - 1}")
    length = file.frames / rate
    if not 0 <= source.start < length or (source.end is not None and source.end > length + MAX_OVERSHOOT):
        raise AudioError(f"{name}: the segment is outside the recording, which is {length:.3f} s long; mend `segments`")
    first = round(source.start * rate)
    last = file.frames if source.end is None else min(file.frames, round(source.end * rate))
    if last <= first:
        raise AudioError(f"{name}: the segment holds no sample; mend `segments`")
    return first, last - first


def _blocks(file: soundfile.SoundFile, source: AudioSource, first: int, count: int, lead: float = LEAD
            ) -> Iterator[np.ndarray]:
    """`count` samples from `first` on: float32 [n, channels]; lead: see `Mp3File.read_piece`."""
    done = 0
    while done < count:
        asked = min(_BLOCK, 2 * _BLOCK // file.channels, count - done)
        block = _decode(file, source, first + done, asked, lead)
        done += len(block)
        missing = count - done if len(block) < asked else 0
        if missing > (MP3_SLACK if file.format == "MP3" else 0) or not done:
            raise AudioError(f"{_name(source)}: {missing} of {count} samples are not there: the file is truncated; "
                             "get it again or leave it out")
        yield block
        if missing:
            return


def _decode(file: soundfile.SoundFile, source: AudioSource, first: int, count: int, lead: float) -> np.ndarray:
    """float32 [n, channels], n <= count"""
    try:
        if file.format == "MP3":
            samples, said = file.read_piece(first, count, lead)
        else:
            file.seek(first)
            samples, said = file.read(count, dtype="float32", always_2d=True), []
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioError(f"{_name(source)}: cannot be decoded near sample {first} ({reason(error)}); "
                         "truncated or corrupt? Get the file again or leave it out") from None
    if said and not file.damage_told and source.path not in _damaged:
        file.damage_told = True
        _damaged.update([source.path] if file.key else [])
        logger.warning("%s: damaged? Between %.1f and %.1f s the mp3 decoder said: %s. Get it again or leave it out",
                       source.path, first / file.samplerate, (first + count) / file.samplerate, said[0])
    return samples


@contextmanager
def open_file(path: str, max_seconds: float | None = None, missing: str = _MISSING) -> Iterator[soundfile.SoundFile]:
    """Open a file or an archive entry with the checks of `open_encoded`; missing: what to do where it is not there."""
    if is_command(path):
        raise AudioError(f"{path!r}: is a command, and commands run only with consent: `utils/data_dir.sh "
                         "materialize DIR DUMP_DIR --allow_pipes true`")
    place = file_of(path)
    try:
        if (data := read_piece(path)) is not None:
            try:
                with open_encoded(io.BytesIO(data), path, max_seconds, (path,)) as file:
                    yield file
            except AudioError as error:
                raise AudioError(f"{error}; or remove {place} and pack the directory again") from None
            return
        status = os.stat(place)
        if not stat.S_ISREG(status.st_mode):
            raise AudioError(f"{path}: is not a regular file")
        if not status.st_size:
            raise AudioError(f"{path}: is an empty file; get it again or leave it out")
        key = path, status.st_size, status.st_mtime_ns
        with open(place, "rb") as raw:
            window = raw if place == path else open_entry(raw, int(path.rpartition(":")[2]), path)
            with open_encoded(window, path, max_seconds, key) as file:
                yield file
    except FileNotFoundError:
        raise AudioError(f"{path}: there is no such file; {missing}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise AudioError(f"{path}: cannot be read: {reason(error)}") from None


@contextmanager
def open_encoded(raw: io.IOBase, name: str, max_seconds: float | None = None, key: tuple | None = None
                 ) -> Iterator[soundfile.SoundFile]:
    """Open the encoded audio in `raw`, which is at its beginning and can seek; key: see `Mp3File`.

    Refuse at once what its header calls longer than `max_seconds`, and what holds no samples or fewer than it says.
    """
    try:
        with Mp3File(raw, key) if is_mp3(raw) else soundfile.SoundFile(raw) as file:
            check_length(file.frames, file.samplerate, max_seconds, name)
            check_complete(file, raw, name)
            yield file
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: headerless raw
        raise AudioError(f"{name}: is not audio that libsndfile can decode ({compression(raw) or reason(error)}); "
                         "convert it, get it again or leave it out") from None


def _as_source(source: AudioSource | str) -> AudioSource:
    return source if isinstance(source, AudioSource) else AudioSource(str(source))


def _name(source: AudioSource) -> str:
    if not source.start and source.end is None:
        return source.path
    return f"{source.path} [{source.start:g} s to {'the end' if source.end is None else f'{source.end:g} s'}]"


def reason(error: Exception) -> str:
    """The system's or the decoder's own words, without the path in front."""
    text = getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)
    return text.strip().rstrip(".") or type(error).__name__

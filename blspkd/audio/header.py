"""What the header of an audio file promises, and whether it is there."""

import io
import re

import soundfile

from blspkd.errors import AudioError

MP3_EXTRA = 5 * 1152  # samples that frames may hold beyond the header's: the encoder's delay and padding, first frame
STREAMED = 0x7FFF0000  # a wav header with at least this many bytes was written to a pipe: the length is the file's
UNKNOWN_LENGTH = 1 << 40  # libsndfile reports a number beyond this where the header has none

# What libsndfile's log says of a file that was cut short: wav and aiff, Wave64, Sun AU; RF64.
_CUT_SHORT = (
    re.compile(r"^\s*(?:data|SSND|riff|Data Size)\s*: (?P<told>\d+) \(should be (?P<found>\d+)\)", re.MULTILINE),
    re.compile(r"frame count (?P<found>\d+) does not match value from 'ds64' chunk of (?P<told>\d+)"))


def compression(raw: io.IOBase) -> str:
    """What a NIST SPHERE file that cannot be decoded is compressed with: sph2pipe uncompresses these."""
    raw.seek(0)
    head = raw.read(4096)
    coding = re.search(rb"sample_coding -s\d+ (\S*embedded-\S+)", head) if head.startswith(b"NIST_1A") else None
    return f"NIST SPHERE, {coding[1].decode('ascii', 'replace')}: uncompress it with sph2pipe" if coding else ""


def check_length(samples: int, rate: float, max_seconds: float | None, name: str) -> None:
    """Raise AudioError where so many samples are longer than `max_seconds`; None: any length will do."""
    if max_seconds is not None and max_seconds * rate < samples < UNKNOWN_LENGTH:
        raise AudioError(f"{name}: is {samples / rate:.1f} s long and at most {max_seconds:g} s are accepted; cut it "
                         "into shorter pieces")


def check_complete(file: soundfile.SoundFile, raw: io.RawIOBase, path: str) -> None:
    """Raise AudioError where `file`, which reads from `raw`, lacks what its header promises, or hides its length."""
    log = file.extra_info
    expected, found = file.frames, file.frames
    for pattern in _CUT_SHORT:
        cut = pattern.search(log)
        if cut and int(cut["told"]) < STREAMED:
            expected, found = int(cut["told"]), int(cut["found"])
            break
    if file.format == "NIST":
        position = raw.tell()
        raw.seek(0)
        count = re.search(rb"sample_count -i (\d+)", raw.read(4096))
        raw.seek(position)
        expected = int(count[1]) if count else expected
    if found < expected or "lacks an end-of-stream bit" in log:
        raise AudioError(f"{path}: the file is truncated; get it again or leave it out")
    if not file.frames:
        raise AudioError(f"{path}: holds no samples; leave it out")
    if file.format == "MP3" and (real := file.index.samples) > file.frames + MP3_EXTRA:
        found, told = real / file.samplerate, file.frames / file.samplerate
        raise AudioError(f"{path}: only {told:.2f} of its {found:.2f} s would be read (variable bit rate without a "
                         "Xing header, or several files joined?); convert it to flac")
    if file.frames >= UNKNOWN_LENGTH:
        raise AudioError(f"{path}: does not say how long it is (written to a pipe?); convert it to wav")

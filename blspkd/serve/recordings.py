"""Recordings that requests bring along: bytes in base64, of one of four formats, told by their first bytes.

libsndfile knows many more formats; what a server of strangers need not read, it does not.
"""

import binascii
import io
from base64 import b64decode
from typing import Any

from blspkd.audio.samples import open_encoded
from blspkd.serve.api_error import ApiError, quoted

FORMATS = ("wav", "mp3", "flac", "ogg")
MAX_RATE = 48000  # Hz, of the longest recordings
_LEAST = 16  # bytes; less is no recording


def decode_recording(value: Any, name: str) -> bytes:
    """The bytes of {"data": <base64>, "format": ...}; name: of the object, for messages. Raises ApiError."""
    if not isinstance(value, dict) or value.keys() != {"data", "format"}:
        raise ApiError(400, f'{name}: give {{"data": <base64>, "format": "wav"}} and nothing else', name,
                       "invalid_audio")
    if value["format"] not in FORMATS:
        raise ApiError(400, f"{name}.format: is {quoted(value['format'])}; send one of {', '.join(FORMATS)}",
                       f"{name}.format", "unsupported_audio_format")
    if not isinstance(value["data"], str):
        raise ApiError(400, f"{name}.data: is no text but {quoted(value['data'])}; send the file's bytes in base64",
                       f"{name}.data", "invalid_base64")
    try:
        data = b64decode(value["data"], validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, f"{name}.data: is not base64; send the file's bytes in base64, without `data:` in front",
                       f"{name}.data", "invalid_base64") from None
    return check_recording(data, f"{name}.data", value["format"])


def check_recording(data: bytes, name: str, told: str = "") -> bytes:
    """`data`, if it is of one of the formats, and of that which was told. Raises ApiError."""
    found = _format(data)
    if not found:
        raise ApiError(400, f"{name}: is no recording; send {', '.join(FORMATS[:-1])} or {FORMATS[-1]}", name,
                       "unsupported_audio_format")
    if told and found != told:
        raise ApiError(400, f"{name}: is {found}, but format says {told}", name, "invalid_audio")
    return data


def check_decoded_size(data: bytes, name: str, max_seconds: float) -> None:
    """By the header alone: a few bytes of flac may hold minutes of silence at a high rate.

    Raises AudioError for what is no audio or longer than `max_seconds`, and ApiError for more samples than those
    seconds have at MAX_RATE.
    """
    with open_encoded(io.BytesIO(data), name, max_seconds) as file:
        if file.frames > max_seconds * MAX_RATE:
            raise ApiError(400, f"{name}: has {file.frames} samples, at {file.samplerate} Hz; send it at up to "
                           f"{MAX_RATE} Hz", name, "invalid_audio")


def _format(data: bytes) -> str:
    if len(data) < _LEAST:
        return ""
    if data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE":
        return "wav"
    if data[:4] in (b"fLaC", b"OggS"):
        return "flac" if data[:4] == b"fLaC" else "ogg"
    is_frame = data[0] == 0xFF and data[1] & 0xE6 in (0xE2, 0xE4, 0xE6)  # the sync word, a layer, no reserved version
    return "mp3" if data[:3] == b"ID3" or is_frame else ""

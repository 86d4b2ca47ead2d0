"""A request's body: read up to a limit, and taken apart strictly. Nothing is put on disk."""

import json
import math
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser
from typing import Any

from fastapi import Request

from blspkd.serve.api_error import GONE, ApiError, quoted
from blspkd.serve.settings import Settings
from blspkd.serve.waiting import first_of

STALLED = 10.0  # seconds between two pieces of a body; until it is whole it holds a place in the queue
MAX_FIELDS = 32  # of a form
MAX_HEAD = 4096  # bytes of a field's headers
IDENTITY = ("", "7bit", "8bit", "binary")  # transfer encodings that change nothing


@dataclass(frozen=True)
class Field:
    """One field of a form."""

    value: bytes
    is_file: bool

    def text(self, name: str) -> str:
        try:
            return self.value.decode("utf-8")
        except UnicodeDecodeError:
            raise ApiError(400, f"{name}: is not UTF-8", name, "invalid_encoding") from None


async def read_json(request: Request, settings: Settings) -> dict:
    """The request's JSON object. Raises ApiError."""
    _check_type(request, "application/json")
    return parse_json(await read_body(request, settings), settings.max_characters)


async def read_form(request: Request, settings: Settings) -> dict[str, Field]:
    """The request's multipart form. Raises ApiError."""
    header = _check_type(request, "multipart/form-data")
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not 1 <= len(boundary) <= 70 or not boundary.isascii():
        raise ApiError(400, "Content-Type: has no usable boundary", code="invalid_form")
    return parse_form(await read_body(request, settings), boundary.encode("ascii"))


async def read_body(request: Request, settings: Settings) -> bytes:
    """The whole body; raises ApiError for one that is too large (413), too slow (408) or broken off."""
    late = ApiError(408, f"the request's body did not arrive within {settings.timeout_seconds:g} seconds",
                    code="request_timeout", headers={"Connection": "close"})
    return await first_of(_read(request, settings.max_body_bytes), seconds=settings.timeout_seconds, late=late)


def parse_json(body: bytes, max_items: int) -> dict:
    """A JSON object as RFC 8259 has it: no NaN, no key twice. Raises ApiError.

    max_items: of all lists and objects; each costs many times the bytes of memory that it has in `body`.
    """
    if body.count(b",") + body.count(b"[") + body.count(b"{") > max_items:
        raise ApiError(400, "the request's JSON has too many elements", code="invalid_json")
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_float=_finite,
                           parse_constant=_finite)
    except RecursionError:
        raise ApiError(400, "the request's JSON is nested too deeply", code="invalid_json") from None
    except ValueError as error:
        raise ApiError(400, f"the request's body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(400, f"the request's JSON is no object but {quoted(value)}", code="invalid_json")
    return value


def parse_form(body: bytes, boundary: bytes) -> dict[str, Field]:
    """The fields of a multipart form (RFC 7578). Raises ApiError."""
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary, MAX_FIELDS + 2)
    if len(parts) < 2 or not parts[-1].startswith(b"--") or len(parts) > MAX_FIELDS + 2:
        raise ApiError(400, f"the request's form is broken, or has more than {MAX_FIELDS} fields", code="invalid_form")
    fields: dict[str, Field] = {}
    for part in parts[1:-1]:
        name, field = _field(part)
        if name in fields and not name.endswith("[]"):
            raise ApiError(400, f"{quoted(name)}: stands twice in the form", code="invalid_form")
        fields[name] = field
    return fields


def _field(part: bytes) -> tuple[str, Field]:
    head, blank, value = part.partition(b"\r\n\r\n")
    headers = BytesHeaderParser().parsebytes(head.lstrip(b"\r\n")) if len(head) <= MAX_HEAD else Message()
    name = headers.get_param("name", header="Content-Disposition")
    if not blank or not isinstance(name, str) or headers.get_content_disposition() != "form-data":
        raise ApiError(400, "a field of the request's form has no name", code="invalid_form")
    if headers.get("Content-Transfer-Encoding", "").lower() not in IDENTITY:
        raise ApiError(400, f"{quoted(name)}: is encoded; send the bytes as they are", code="invalid_form")
    return name, Field(value, headers.get_filename() is not None)


async def _read(request: Request, limit: int) -> bytes:
    body, more = bytearray(), True
    announced = int(request.headers.get("content-length", "0"))  # h11 takes no request where this is not a number
    while more and max(announced, len(body)) <= limit:
        message = await first_of(request.receive(), seconds=STALLED, late=ApiError(
            408, f"nothing of the request's body came for {STALLED:g} seconds", code="request_timeout",
            headers={"Connection": "close"}))
        if message["type"] == "http.disconnect":
            raise ApiError(GONE, "the client broke off")
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if max(announced, len(body)) > limit:
        raise ApiError(413, f"the request has more than {limit} bytes; send shorter audio, or as mp3, flac or ogg",
                       code="request_too_large")
    return bytes(body)


def _check_type(request: Request, wanted: str) -> Message:
    """The Content-Type, parsed. Also a page of another origin that wants to send a simple request ends here."""
    header = Message()
    header["Content-Type"] = request.headers.get("content-type", "none/none").replace("\r", " ").replace("\n", " ")
    if header.get_content_type() != wanted or "content-encoding" in request.headers:
        raise ApiError(415, f"Content-Type: has to be {wanted}, not compressed", code="unsupported_media_type")
    return header


def _object(pairs: list[tuple[str, Any]]) -> dict:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("an object has a key twice")
    return value


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:20]} is no finite number")
    return value

"""What goes wrong with a request, told as OpenAI tells it: {"error": {"message", "type", "param", "code"}}."""

import json
import re
from collections.abc import Mapping
from typing import Any

from fastapi import Response

from blspkd.errors import AudioError, BlspkdError, ConfigError, ContextError, MessageError

GONE = 499  # nobody reads the answer any more; as nginx counts it
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 504: "timeout_error"}
CODES = {ContextError: "context_length_exceeded", AudioError: "invalid_audio", MessageError: "invalid_messages",
         ConfigError: "invalid_value"}
_ADVICE = {"choose one by channel (counted from 0), e.g. channel=0": "send one channel",
           "let the recording be heard in pieces (chat_in_chunks; --chunk)": "send shorter recordings "
           "(/v1/audio/transcriptions takes long ones)",
           "cut it into shorter pieces": "send a shorter one (/v1/audio/transcriptions takes long ones)"}
_PLACE = re.compile(r"((?:messages|audio|file)[\w.\[\]]*)")


class ApiError(Exception):
    """Answered with `status`; param: the field of the request, code: the mistake's short name."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None,
                 headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers

    @property
    def body(self) -> dict:
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        return json_response(self.body, self.status, self.headers)


def api_error(error: BaseException) -> ApiError:
    """The client's mistake, or a failure of ours of which it learns nothing but that."""
    if isinstance(error, ApiError):
        return error
    code = next((code for kind, code in CODES.items() if isinstance(error, kind)), None)
    if isinstance(error, BlspkdError) and code:
        place = _PLACE.match(str(error))
        return ApiError(400, _for_clients(str(error)), place[1].rstrip(".") if place else None, code)
    return ApiError(500, "the server failed at this request; its log says more", code="internal_error")


def _for_clients(message: str) -> str:
    """A message with advice that somebody can follow who has this API and no other."""
    for ours, theirs in _ADVICE.items():
        message = message.replace(ours, theirs)
    return message


def to_json(value: Any) -> str:
    """In ASCII, which can carry whatever a request held, and on one line."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(value), status, headers, "application/json")


def quoted(value: Any, longest: int = 40) -> str:
    """`value` as JSON for a message, cut where it is long; of lists and objects only what they are."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = to_json(value)
    return text if len(text) <= longest else f"{text[:longest]}..."

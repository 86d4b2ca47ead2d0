"""What requests may ask for, in OpenAI's words, and what they are refused.

A field of OpenAI's that would change the answer, and that this server cannot honour, is refused by name: an answer that
silently ignores `tools` or `logprobs` looks like one that honours them. What changes no answer (`user`, `metadata`) is
ignored. Fields that OpenAI does not know are refused, too.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from blspkd.models.chat import ChatOptions
from blspkd.serve.api_error import ApiError, quoted
from blspkd.serve.body import Field
from blspkd.serve.recordings import check_recording, decode_recording
from blspkd.serve.settings import Settings

MAX_MESSAGES = 256
MAX_PARTS = 256  # of all messages
MAX_STOPS, MAX_STOP = 4, 500  # texts, characters of each
HARMLESS = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
            "prompt_cache_retention", "verbosity", "parallel_tool_calls"}
READ = {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "stream",
        "stream_options"}
# The values of other fields that ask for nothing but what is done anyway; null is always one.
NEUTRAL: dict[str, tuple] = {
    "n": (1,), "logprobs": (False,), "top_logprobs": (0,), "frequency_penalty": (0,), "presence_penalty": (0,),
    "logit_bias": ({},), "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],),
    "function_call": ("none", "auto"), "response_format": ({"type": "text"},), "modalities": (["text"],),
    "audio": (), "prediction": (), "reasoning_effort": ("none",), "web_search_options": (), "moderation": ()}
HARMLESS_IN_MESSAGE = {"name", "refusal", "annotations"}  # as replies have them that come back as history
FORM_READ = {"file", "model", "response_format", "temperature", "language", "prompt", "stream"}
FORM_FORMATS = ("json", "text", "verbose_json")


@dataclass(frozen=True)
class ChatRequest:
    """A request for a reply."""

    messages: list[dict]  # as `SpeechLLM.read` takes them, audio as bytes of files
    options: ChatOptions
    stream: bool
    include_usage: bool  # in a last chunk of the stream


@dataclass(frozen=True)
class TranscriptionRequest:
    """A request for the words of a recording."""

    recording: bytes
    response_format: str


def read_chat(body: dict, settings: Settings) -> ChatRequest:
    """Raises ApiError, naming the field."""
    _check_fields(body, READ, HARMLESS, NEUTRAL)
    check_model(body.get("model"), settings)
    stream = _boolean(body, "stream")
    return ChatRequest(_messages(body.get("messages"), settings), _options(body, settings), stream,
                       _include_usage(body.get("stream_options"), stream))


def recordings_of(messages: list[dict]) -> list[tuple[str, bytes]]:
    """The recordings of messages as `ChatRequest` has them, each with its place."""
    return [(f"messages[{index}].content[{number}]", part["audio"]) for index, message in enumerate(messages)
            if isinstance(message["content"], list)
            for number, part in enumerate(message["content"]) if part["type"] == "audio"]


def read_transcription(form: dict[str, Field], settings: Settings) -> TranscriptionRequest:
    """Raises ApiError. `language` is a hint and ignored: the model hears what it hears."""
    texts = {name: field.text(name) for name, field in form.items() if name != "file"}
    for name in texts.keys() - FORM_READ:
        raise _unknown(name)
    check_model(texts.get("model"), settings)
    response_format = texts.get("response_format", "json")
    if response_format not in FORM_FORMATS:
        raise ApiError(400, f"response_format: is {quoted(response_format)}; choose {', '.join(FORM_FORMATS)} (there "
                       "are no times)", "response_format", "unsupported_value")
    if texts.get("prompt"):
        raise _unsupported("prompt", "the model cannot be told what comes before; /v1/chat/completions takes "
                                     "instructions")
    if texts.get("stream", "false").lower() not in ("false", "0", ""):
        raise _unsupported("stream", "the text comes in one piece")
    if texts.get("temperature", "0").strip("0.") or not texts.get("temperature", "0"):
        raise _unsupported("temperature", "transcripts are greedy; leave it at 0")
    if "file" not in form or not form["file"].is_file:
        raise ApiError(400, "file: is missing; send the recording as a file of the form", "file", "missing_field")
    return TranscriptionRequest(check_recording(form["file"].value, "file"), response_format)


def read_hear(body: dict) -> bytes:
    """The recording of {"audio": {"data", "format"}}. Raises ApiError."""
    _check_fields(body, {"audio"}, set(), {})
    return decode_recording(body.get("audio"), "audio")


def check_model(name: Any, settings: Settings) -> None:
    """None: there is but one."""
    if name is not None and name != settings.model_name:
        raise ApiError(404, f"model: {quoted(name)} is not here; this server has {quoted(settings.model_name)}",
                       "model", "model_not_found")


def _messages(messages: Any, settings: Settings) -> list[dict]:
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        raise ApiError(400, f"messages: give a list of 1 to {MAX_MESSAGES} messages", "messages", "invalid_messages")
    read = [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]
    contents = [message["content"] for message in read]
    parts = [part for content in contents for part in (content if isinstance(content, list) else [content])]
    texts = [part if isinstance(part, str) else part["text"] for part in parts if "text" in part or
             isinstance(part, str)]
    if len(parts) > MAX_PARTS:
        raise ApiError(400, f"messages: have {len(parts)} parts, more than {MAX_PARTS}", "messages",
                       "too_many_parts")
    if sum(map(len, texts)) > settings.max_characters:
        raise ApiError(400, f"messages: have {sum(map(len, texts))} characters, more than {settings.max_characters}",
                       "messages", "text_too_long")
    return read


def _message(message: Any, name: str) -> dict:
    if not isinstance(message, dict):
        raise ApiError(400, f"{name}: is no object", name, "invalid_messages")
    for key in message.keys() - {"role", "content"} - HARMLESS_IN_MESSAGE:
        if message[key] not in (None, []):
            raise ApiError(400, f"{name}: {quoted(key)} is not supported; leave it out", name, "unsupported_parameter")
    content = message.get("content")
    if isinstance(content, list):
        content = [_part(part, f"{name}.content[{index}]") for index, part in enumerate(content)]
    elif not isinstance(content, str):
        raise ApiError(400, f"{name}.content: give a text or a list of parts", f"{name}.content", "invalid_messages")
    return {"role": message.get("role"), "content": content}


def _part(part: Any, name: str) -> dict:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in ("text", "input_audio") or part.keys() != {"type", kind}:
        raise ApiError(400, f'{name}: give {{"type": "text", "text": ...}} or {{"type": "input_audio", "input_audio": '
                       '{"data": <base64>, "format": "wav"}} and nothing else; files and addresses are not opened',
                       name, "unsupported_part")
    if kind == "input_audio":
        return {"type": "audio", "audio": decode_recording(part[kind], f"{name}.input_audio")}
    if not isinstance(part[kind], str):
        raise ApiError(400, f"{name}.text: is no text", f"{name}.text", "invalid_messages")
    return part


def _options(body: dict, settings: Settings) -> ChatOptions:
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        raise ApiError(400, "max_tokens: stands beside max_completion_tokens; give one of them", "max_tokens",
                       "invalid_value")
    name = "max_tokens" if body.get("max_tokens") is not None else "max_completion_tokens"
    top_p = _number(body, "top_p", 1.0, 0, 1)
    if top_p == 0:
        raise ApiError(400, "top_p: has to be above 0", "top_p", "invalid_value")
    return ChatOptions(max_new_tokens=_integer(body, name, settings.default_new_tokens, 1, settings.max_new_tokens),
                       temperature=_number(body, "temperature", 0.0, 0, 2), top_p=top_p,
                       seed=_integer(body, "seed", None, -1 << 63, (1 << 63) - 1), stop=tuple(_stops(body.get("stop"))))


def _stops(stop: Any) -> Iterable[str]:
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(
            isinstance(text, str) and 0 < len(text) <= MAX_STOP for text in stops):
        raise ApiError(400, f"stop: give a text or a list of at most {MAX_STOPS} texts, each of 1 to {MAX_STOP} "
                       "characters", "stop", "invalid_value")
    return stops


def _include_usage(options: Any, stream: bool) -> bool:
    if options is None:
        return False
    if not isinstance(options, dict) or options.keys() - {"include_usage", "include_obfuscation"} or not stream:
        raise ApiError(400, 'stream_options: give {"include_usage": true} or false, together with "stream": true',
                       "stream_options", "invalid_value")
    return _boolean(options, "include_usage", "stream_options.")


def _check_fields(body: dict, read: set[str], harmless: set[str], neutral: dict[str, tuple]) -> None:
    for name in body.keys() - read - harmless:
        if name not in neutral:
            raise _unknown(name)
        if body[name] is not None and not any(type(body[name]) is type(value) and body[name] == value or
                                              _same_number(body[name], value) for value in neutral[name]):
            raise _unsupported(name, "this server cannot do that; leave it out")


def _same_number(left: Any, right: Any) -> bool:
    """0.0 is 0, but False is not."""
    return type(left) in (int, float) and type(right) in (int, float) and left == right


def _number(body: dict, name: str, default: float, low: float, high: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or not low <= value <= high:
        raise ApiError(400, f"{name}: is {quoted(value)}; give a number from {low:g} to {high:g}", name,
                       "invalid_value")
    return float(value)


def _integer(body: dict, name: str, default: int | None, low: int, high: int) -> int | None:
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise ApiError(400, f"{name}: is {quoted(value)}; give a whole number from {low} to {high}", name,
                       "invalid_value")
    return value


def _boolean(body: dict, name: str, prefix: str = "") -> bool:
    value = body.get(name)
    if not isinstance(value, bool | None):
        raise ApiError(400, f"{prefix}{name}: is {quoted(value)}; give true or false", f"{prefix}{name}",
                       "invalid_value")
    return bool(value)


def _unknown(name: str) -> ApiError:
    return ApiError(400, f"Unrecognized request argument supplied: {name[:60]}", name[:60], "unknown_parameter")


def _unsupported(name: str, reason: str) -> ApiError:
    return ApiError(400, f"{name}: {reason}", name, "unsupported_parameter")

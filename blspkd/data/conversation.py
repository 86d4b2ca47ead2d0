"""A conversation in the format of OpenAI and transformers -> the token ids before, between and behind its audios.

    [{"role": "user", "content": [{"type": "text", "text": "Translate into German."}, {"type": "audio", "audio": ...}]}]

It is rendered by the LLM's own chat template and tokenised in one go, as a turn of the training is (prompts.py): each
audio stands where a word would stand, and the parts of a message are joined by the prompt's separator. What a text
spells is text. The default system message is the training's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blspkd.config import PromptConfig
from blspkd.data.control_tokens import ControlTokens
from blspkd.data.prompts import Prompt, put_around
from blspkd.data.system_turn import NONE
from blspkd.errors import MessageError, ModelError

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_WORD = "a"  # stands for an audio while tokens are made; what stands around it stands around any plain word


@dataclass(frozen=True)
class Audio:
    """An audio part of a message."""

    value: Any  # whatever `read_audio` takes
    rate: float | None  # Hz; of bare arrays
    name: str  # where it stands, for errors


@dataclass(frozen=True)
class Message:
    """Who says what."""

    role: str  # system, user or assistant
    parts: tuple[str | Audio, ...]


def audios_of(messages: Sequence[Message]) -> list[Audio]:
    """All audios, in order."""
    return [part for message in messages for part in message.parts if isinstance(part, Audio)]


def read_messages(messages: Any) -> list[Message]:
    """Raises MessageError, naming the part, for anything but a conversation in which the user speaks last."""
    if not isinstance(messages, list | tuple) or not messages:
        raise MessageError("messages: give a list of at least one message, e.g. "
                           '[{"role": "user", "content": "Hello"}]')
    conversation = [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]
    for index, message in enumerate(conversation):
        if message.role == "system" and index:
            raise MessageError(f"messages[{index}]: a system message can only be the first one")
    if conversation[-1].role != "user":
        raise MessageError(f"messages[{len(messages) - 1}]: the last message has to be the user's")
    return conversation


def ask(config: PromptConfig, instruction: str, audios: Sequence[dict]) -> dict:
    """A user's message: an instruction, which may be empty, and the parts that it is about, in the training's order."""
    words = [{"type": "text", "text": instruction}] if instruction else []
    parts = [*audios, *words] if config.speech_position == "before" else [*words, *audios]
    return {"role": "user", "content": parts}


def ids_around_audios(prompt: Prompt, messages: Sequence[Message]) -> list[list[int]]:
    """Token ids before, between and behind the audios: one list more than there are audios.

    Raises MessageError where the LLM's chat template refuses the conversation.
    """
    texts = [part for message in messages for part in message.parts if isinstance(part, str)]
    reader = prompt.reader(*texts)
    count = len(audios_of(messages))
    try:
        around = prompt.around_inputs(reader, lambda edge: _turns(prompt, reader, messages, edge), count)
    except ModelError as error:
        raise MessageError(f"messages: {error}") from None
    places, end = [], 0  # of the audios' words
    for text in around[:-1]:
        places.append(end + len(text))
        end = places[-1] + len(_WORD)
    pieces: list[list[int]] = [[]]
    for token, (left, right) in zip(*reader.read(_WORD.join(around)), strict=True):
        covered = sum(left < place + len(_WORD) and place < right for place in places)
        while len(pieces) <= count and places[len(pieces) - 1] < right:
            pieces.append([])
        if not covered:
            pieces[-1].append(token)
    return pieces


def _turns(prompt: Prompt, reader: ControlTokens, messages: Sequence[Message], edge: str) -> list[dict]:
    """The messages for the chat template: control tokens of texts hidden, an `edge` around each text."""
    separator = reader.hide(prompt.config.separator)
    turns = [{"role": message.role, "content": separator.join(
        reader.marks.input if isinstance(part, Audio) else put_around(edge, reader.hide(part))
        for part in message.parts)} for message in messages]
    if turns[0]["role"] != "system" and prompt.config.system not in ("", NONE):
        turns.insert(0, {"role": "system", "content": put_around(edge, reader.hide(prompt.config.system))})
    return turns


def _message(message: Any, name: str) -> Message:
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise MessageError(f'{name}: give {{"role": ..., "content": ...}}')
    role = ROLES.get(message["role"]) if isinstance(message["role"], str) else None
    if role is None:
        raise MessageError(f"{name}: role: {message['role']!r} is none of {', '.join(ROLES)}")
    content = message["content"]
    if isinstance(content, str):
        return Message(role, (_text(content, f"{name}.content", may_be_empty=role == "assistant"),))
    if not isinstance(content, list | tuple) or not content:
        raise MessageError(f"{name}.content: give a text or a list of parts")
    parts = tuple(_part(part, f"{name}.content[{index}]", role) for index, part in enumerate(content))
    if role != "user" and any(isinstance(part, Audio) for part in parts):
        raise MessageError(f"{name}: only the user's messages can hold audio")
    return Message(role, parts)


def _part(part: Any, name: str, role: str) -> str | Audio:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return _text(part.get("text"), f"{name}.text", may_be_empty=role == "assistant")
    if kind == "audio":
        value = next((part[key] for key in ("audio", "path") if part.get(key) is not None), None)
        if value is None:
            raise MessageError(f'{name}: give {{"type": "audio", "audio": ...}}: a path, bytes, a file, or (rate, '
                               "array); addresses (`url`) are not opened")
        rates = {part[key] for key in ("rate", "sampling_rate") if part.get(key) is not None}
        if len(rates) > 1:
            raise MessageError(f"{name}: rate and sampling_rate differ; give one of them")
        return Audio(value, next(iter(rates), None), name)
    raise MessageError(f'{name}: give {{"type": "text", "text": ...}} or {{"type": "audio", "audio": ...}}, not '
                       f"{kind or type(part).__name__!r}")


def _text(text: Any, name: str, may_be_empty: bool = False) -> str:
    if not isinstance(text, str):
        raise MessageError(f"{name}: is not a text but {type(text).__name__}")
    if not may_be_empty and not text.strip():
        raise MessageError(f"{name}: is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MessageError(f"{name}: holds half a character (a lone surrogate) at {error.start}") from None
    return text

"""Replies on the terminal: the text alone goes to stdout, piece by piece; all else that is told goes to stderr."""

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from blspkd.data.conversation import ask
from blspkd.errors import BlspkdError, DataError, for_stream
from blspkd.models.chat import SpeechLLM
from blspkd.models.stream import Stream
from blspkd.serve.inputs import Input

_PLACE = re.compile(r"^messages\[\d+\](\.content(\[\d+\](\.text)?)?)?: ")


def say(text: str) -> None:
    """Print a piece of a reply, at once."""
    sys.stdout.write(for_stream(text, sys.stdout))
    sys.stdout.flush()


def tell(text: str, end: str = "\n") -> None:
    """Print something that is no reply."""
    print(for_stream(text, sys.stderr), end=end, file=sys.stderr, flush=True)


def told(error: BlspkdError, name: str = "") -> str:
    """An error's text with a recording's name in the place of where it stands in the messages."""
    text = _PLACE.sub("", str(error))
    return text if text == str(error) or name in text else f"{name}: {text}"


def say_stream(stream: Stream) -> Any:
    """Print a reply while it is written; returns the `Reply`. Ctrl-C ends it and is raised on."""
    with stream:
        for piece in stream:
            say(piece)
    say("\n")
    if stream.reply.finish_reason == "length":
        tell(f"(stopped after {stream.reply.completion_tokens} tokens; --max_new_tokens allows more)")
    return stream.reply


def say_chunks(texts: Iterable[str]) -> None:
    """Print the replies to the pieces of a long recording, joined by spaces, as they come."""
    gap = ""
    for text in filter(None, texts):
        say(gap + text)
        gap = " "
    say("\n")


def reply_to_each(model: SpeechLLM, inputs: Sequence[Input], instruction: str = "", system: str = "",
                  channel: int | None = None, chunk: float | None = None, **options: Any) -> None:
    """Print a reply to each input by itself.

    chunk: seconds of the pieces that recordings are cut into; None: whole. options: of `ChatOptions`.
    An input that cannot be used is told, and the others are answered all the same; then DataError is raised.
    """
    failed = 0
    for item in inputs:
        if len(inputs) > 1:
            tell(f"{item.name}:")
        try:
            if chunk is not None and item.part["type"] == "audio":
                say_chunks(model.chat_in_chunks(item.part["audio"], instruction, channel=channel, chunk=chunk,
                                                **options))
                continue
            system_turn = [{"role": "system", "content": system}] if system else []
            asked = ask(model.listener.prompt.config, instruction, [item.part])
            say_stream(model.stream([*system_turn, asked], channel=channel, **options))
        except BlspkdError as error:
            if len(inputs) == 1:
                raise DataError(told(error, item.name)) from None
            failed += 1
            tell(f"error: {told(error, item.name)}")
    if failed:
        raise DataError(f"{failed} of {len(inputs)} could not be answered (see above)")

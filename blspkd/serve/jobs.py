"""A request between the event loop, which answers it, and the thread that has the model."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from blspkd.models.chat import ReadConversation
from blspkd.models.reply import ChatOptions, Reply
from blspkd.serve.api_error import ApiError


class Job:
    """Work for the model's thread. Made in the event loop, which gets its events: pieces of text, then the result."""

    def __init__(self, seconds: float):
        """seconds: of audio that is held until it is done."""
        self.seconds = seconds
        self.request: object = self  # which it belongs to; a long recording makes several jobs of one
        self.answered = False  # its last event is told
        self.cancelled = False  # set by the event loop, seen by the model's thread at its next step
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Any] = asyncio.Queue()

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self.cancelled = True

    def tell(self, event: Any) -> None:
        """Hand an event over; called by any thread."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the event loop has ended
            self.cancelled = True

    async def next(self) -> Any:
        """The next event. Raises what went wrong."""
        event = await self._events.get()
        if isinstance(event, BaseException):
            raise event
        return event


class CallJob(Job):
    """Anything that needs the model and is no conversation; its one event is the result."""

    def __init__(self, call: Callable[[], Any], seconds: float = 0.0):
        super().__init__(seconds)
        self.call = call


class ChatJob(Job):
    """A conversation that wants a reply: its events are pieces of text, where these are wanted, and the `Reply`."""

    def __init__(self, conversation: ReadConversation, options: ChatOptions, began: float, wants_pieces: bool = False,
                 seconds: float = 0.0):
        """began: by `time.perf_counter`, when the request was there."""
        super().__init__(seconds)
        self.conversation, self.options, self.wants_pieces = conversation, options, wants_pieces
        self.first_token: float | None = None  # seconds until the first piece of text
        self._began = began

    def tell_piece(self, piece: str) -> None:
        if self.first_token is None:
            self.first_token = time.perf_counter() - self._began
        if self.wants_pieces:
            self.tell(piece)

    def tell_reply(self, reply: Reply) -> None:
        """A reply that was cancelled is told only that nobody waits for it."""
        self.answered = True
        self.tell(ApiError(503, "the reply was cancelled", code="cancelled")
                  if reply.finish_reason == "cancelled" else reply)

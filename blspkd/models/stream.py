"""A reply that is read while it is written."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Reply = TypeVar("Reply")


class Stream(Generic[Reply]):
    """Iterate over it for pieces of text; they add up to the text of `reply`.

    `close`, or leaving the loop or the `with` block, ends the generation within one step.
    """

    def __init__(self, generate: Callable[[Callable[[str], None], Callable[[], bool]], Reply]):
        """generate(on_text, cancelled): see `SpeechLLM.generate`; it runs in a thread of its own."""
        self._pieces: queue.Queue[str | None] = queue.Queue()
        self._closed = threading.Event()
        self._reply: Reply | None = None
        self._error: BaseException | None = None
        # no daemon: the program must not end while torch is in a step
        self._thread = threading.Thread(target=self._run, args=(generate,))
        self._thread.start()

    def __iter__(self) -> Iterator[str]:
        try:
            while (piece := self._pieces.get()) is not None:
                yield piece
        finally:
            self.close()
            self._pieces.put(None)  # for whoever iterates again
        if self._error is not None:
            raise self._error

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """End the reply here, if it is not complete."""
        self._closed.set()
        self._thread.join()

    @property
    def reply(self) -> Reply:
        """The whole reply, which may have to be waited for. Raises what the generation raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._reply

    def _run(self, generate: Callable[[Callable[[str], None], Callable[[], bool]], Reply]) -> None:
        try:
            self._reply = generate(self._pieces.put, self._is_left)
        except BaseException as error:  # raised where the reply is read
            self._error = error
        finally:
            self._pieces.put(None)

    def _is_left(self) -> bool:
        """Nobody waits for more: it was closed, or the program is at its end."""
        return self._closed.is_set() or not threading.main_thread().is_alive()

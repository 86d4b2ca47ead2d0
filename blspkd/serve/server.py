"""The server as a process: its socket, its signals, its end."""

import os
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

from blspkd.errors import ConfigError
from blspkd.models.chat import SpeechLLM
from blspkd.serve.app import make_app
from blspkd.serve.connection import Connection
from blspkd.serve.settings import Settings

KEEP_ALIVE = 75  # seconds that an idle connection stays open: longer than clients keep theirs


class Server(uvicorn.Server):
    """Listens from the beginning; `run` serves until a signal, finishes what was admitted, and returns."""

    def __init__(self, model: SpeechLLM | Callable[[], SpeechLLM], settings: Settings):
        """Raises ConfigError where the address cannot be listened on."""
        self.socket = _listen(settings)
        app = make_app(model, settings, self._end)
        self.batcher = app.state.batcher
        super().__init__(uvicorn.Config(
            app, http=Connection, ws="none", lifespan="on", log_level="warning", access_log=False, server_header=False,
            proxy_headers=False, timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=int(settings.timeout_seconds) + 1))

    @property
    def address(self) -> str:
        """Where a browser on this machine finds it."""
        host, port = self.socket.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self) -> None:
        """Raises what the loading of the model raised, or what its thread failed of."""
        super().run(sockets=[self.socket])
        if self.batcher.failure is not None:
            raise self.batcher.failure

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: no further requests are admitted; a second one leaves at once. uvicorn's own would end by it."""
        if self.should_exit:
            os._exit(128 + sig)  # whatever the model is at
        self._end()

    def _end(self) -> None:
        self.batcher.drain()
        self.should_exit = True


def serve(model: SpeechLLM | Callable[[], SpeechLLM], settings: Settings,
          on_listening: Callable[[str], object] = lambda address: None) -> None:
    """Serve `model`, or what loads it, until SIGTERM or SIGINT. Raises ConfigError, and what the loading raises.

    on_listening: is told the address as soon as it answers.
    """
    server = Server(model, settings)
    print(f"listening on {server.address} (a page; /v1 for OpenAI's clients; /metrics); Ctrl-C ends",
          file=sys.stderr, flush=True)
    on_listening(server.address)
    server.run()


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        host = settings.host.strip("[]")
        every = host == "::" and socket.has_dualstack_ipv6()  # of IPv4, too
        return socket.create_server((host, settings.port), family=family, dualstack_ipv6=every)
    except OSError as error:
        raise ConfigError(f"{settings.host}:{settings.port}: cannot be listened on ({error.strerror or error}); choose "
                          "another --port or --host") from None

"""One connection to the server, before there is a request in it: how long that may take, and how many there may be.

Whoever connects and says nothing costs a file descriptor; without these limits a thousand of them are a server that
nobody else can reach.
"""

import resource
import time

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from blspkd.serve.api_error import ApiError, to_json

HEAD_SECONDS = 10.0  # from a connection's beginning to the end of its first request's head
CHECK_SECONDS = 2.0  # between two looks
MOST = 1000  # connections at a time, and no more than half of the file descriptors that the process may have


class Connection(H11Protocol):
    """uvicorn's, which waits for a head for ever, and answers what is no HTTP in plain text."""

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > min(MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2):
            transport.abort()
            return
        self._waiting_since = time.monotonic()
        self._seconds = HEAD_SECONDS
        self._look_again()

    def on_response_complete(self) -> None:
        self._waiting_since = time.monotonic()
        self._seconds = float(self.timeout_keep_alive)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        body = to_json(ApiError(400, msg, code="invalid_http").body).encode("ascii")
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
                   (b"connection", b"close")]
        for event in (h11.Response(status_code=400, headers=headers, reason=b"Bad Request"), h11.Data(data=body),
                      h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def _look_again(self) -> None:
        if self.transport.is_closing():
            return
        in_request = self.cycle is not None and not self.cycle.response_complete
        if not in_request and time.monotonic() - self._waiting_since > self._seconds:
            self.transport.abort()
            return
        self.loop.call_later(min(CHECK_SECONDS, self._seconds), self._look_again)

"""JSON over HTTP with one server, from many threads: retried where that can help, one clear error where it cannot.

The key goes to the configured server alone: no redirect is followed, no proxy is asked, and certificates are checked.
"""

import http.client
import json
import random
import socket
import ssl
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from blspkd.errors import ConfigError, ModelError

BUSY = {408, 425, 429, 500, 502, 503, 504}  # another try may succeed
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds between tries; the first is doubled by every try
MOST_BYTES = 64 << 20  # of an answer


class ServerError(ModelError):
    """A server that cannot be reached, refuses, or answers what cannot be understood; `status` 0: no HTTP status."""

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status


class Server:
    """One server by its address, `http://host:port` or with a path below which it answers."""

    def __init__(self, url: str, key: str = "", timeout_seconds: float = 120.0, retries: int = 6):
        """key: sent as a bearer token, if any. Raises ConfigError for an address that cannot be one."""
        self.url = check_url(url)
        self.timeout_seconds, self.retries, self._key = timeout_seconds, retries, key
        parts = urlsplit(self.url)
        self._address, self._path = parts.netloc, parts.path
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._headers = {"Content-Type": "application/json", "Accept": "application/json",
                         **({"Authorization": f"Bearer {key}"} if key else {})}
        self._of_thread = threading.local()
        self._open: set[http.client.HTTPConnection] = set()
        self._closing = threading.Event()

    def ask(self, method: str, path: str, body: Any = None) -> dict:
        """The JSON object that answers a request. Raises ServerError."""
        content = None if body is None else json.dumps(body)
        why, wait = "", FIRST_WAIT
        for number in range(self.retries + 1):
            if number and self._closing.wait(wait * random.uniform(0.8, 1.2)):
                break
            wait = min(2 * wait, LONGEST_WAIT)
            try:
                status, headers, answer = self._send(method, self._path + path, content)
            except ssl.SSLCertVerificationError as error:
                raise ServerError(f"{self.url}: its certificate is not accepted ({error.verify_message}); name the "
                                  "host as the certificate does, or have this machine trust who signed it "
                                  "(SSL_CERT_FILE)") from None
            except (TimeoutError, OSError, http.client.HTTPException) as error:
                why = (f"no answer within {self.timeout_seconds:g} s" if isinstance(error, TimeoutError) else
                       f"{type(error).__name__}: {str(error).strip() or 'no more'}")
                continue
            if status == 200:
                return self._read(path, answer)
            why = f"HTTP {status}: {self._hide(_first_line(answer))}"
            if status not in BUSY:
                raise self._refusal(path, status, headers, why)
            with suppress(ValueError):  # it may be a date
                wait = min(max(wait, float(headers.get("Retry-After", 0))), LONGEST_WAIT)
        raise ServerError(f"{self.url}{path}: {why}, after {self.retries + 1} tries; see whether the server runs, and "
                          "start the same command again: what is written is kept")

    def close(self) -> None:
        """End all that is under way, in other threads too."""
        self._closing.set()
        for connection in list(self._open):
            with suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _send(self, method: str, path: str, content: str | None) -> tuple[int, Any, bytes]:
        """Status, headers and body. Raises OSError or HTTPException, and the connection is made anew the next time."""
        connection = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = self._of_thread.connection = self._connect()
            self._open.add(connection)
        try:
            connection.request(method, path, content, self._headers)
            answer = connection.getresponse()
            body = answer.read(MOST_BYTES)
            if answer.length:  # bytes that are still to come
                raise http.client.HTTPException("the connection ended within the answer, or that is too long")
            return answer.status, answer.headers, body
        except BaseException:
            self._of_thread.connection = None
            self._open.discard(connection)
            connection.close()
            raise

    def _connect(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._address, timeout=self.timeout_seconds)
        return http.client.HTTPSConnection(self._address, timeout=self.timeout_seconds, context=self._tls)

    def _read(self, path: str, answer: bytes) -> dict:
        try:
            read = json.loads(answer)
        except (ValueError, RecursionError):
            read = None
        if not isinstance(read, dict):
            raise ServerError(f"{self.url}{path}: the answer is no JSON object: {_first_line(answer)}; is this the "
                              "address of a server with OpenAI's API?")
        return read

    def _hide(self, line: str) -> str:
        """A line of an answer for a message: servers may repeat the key that they do not accept."""
        return line.replace(self._key, "***") if self._key else line

    def _refusal(self, path: str, status: int, headers: Any, why: str) -> ServerError:
        remedy = "is this the address of a server with OpenAI's API?"
        if 300 <= status < 400:
            remedy = f"it redirects to {_without_query(headers.get('Location', 'nowhere'))}; name that, if it is meant"
        elif status in (401, 403):
            remedy = "name the environment variable that holds the key: engine_options.api_key_variable"
        elif status in (400, 413, 422):
            remedy = "see what the message says, and the server's log"
        return ServerError(f"{self.url}{path}: {why}; {remedy}", status)


def check_url(url: str) -> str:
    """The address without what is understood: a `/` or `/v1` at its end. Raises ConfigError, which shows no secret."""
    named = "engine_options.url"
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise ConfigError(f"{named}: '{url.rpartition('@')[2]}' is no address of a server; write e.g. "
                          "http://127.0.0.1:8000")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(f"{named}: {parts.scheme}://{parts.hostname}: leave out what stands before @ or behind ?: "
                          "options are written into files; a key comes from the environment variable that "
                          "engine_options.api_key_variable names")
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/").removesuffix("/v1")


def _without_query(url: str) -> str:
    return url.rpartition("@")[2].partition("?")[0][:200]


def _first_line(answer: bytes) -> str:
    """Of an answer, for a message: OpenAI's own, where it has one."""
    with suppress(ValueError, RecursionError):
        read = json.loads(answer)
        error = read.get("error", read) if isinstance(read, dict) else read
        message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
        if isinstance(message, str):
            answer = message.encode()
    lines = answer[:2000].decode(errors="replace").strip().splitlines()
    return lines[0][:200] if lines else "nothing"

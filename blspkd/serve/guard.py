"""Who may ask: in front of everything else, for each request, from its head alone.

A page of another site that the user has open in a browser can send requests to this machine, too. What it cannot do is
choose their Host (it is the page's own name, also when that name was made to point here: DNS rebinding) and their
Origin. So both have to be the server's.
"""

import hmac
import ipaddress
import logging
import re
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from blspkd.serve.api_error import ApiError, quoted
from blspkd.serve.metrics import Metrics
from blspkd.serve.settings import Settings, is_loopback

_HOST = re.compile(r"(\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[^\[\]:%\s]+))(:\d{1,5})?")
OPEN = ("/", "/health")  # without a key: the page, which asks for it, and what load balancers look at
MAX_PATH = 1024
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
           "Cross-Origin-Resource-Policy": "same-origin", "X-Frame-Options": "DENY"}
NO_CONTENT = "default-src 'none'; frame-ancestors 'none'"  # Content-Security-Policy of everything but the page

logger = logging.getLogger(__name__)
Send = Callable[[dict], Awaitable[None]]


class Guard:
    """ASGI middleware: refuses, counts, and puts headers on every answer that tell browsers to be strict."""

    def __init__(self, app: Callable, settings: Settings, metrics: Metrics):
        self.app, self.settings, self.metrics = app, settings, metrics
        names = {settings.host, *settings.allowed_hosts}
        if not is_loopback(settings.host):
            names.add(socket.gethostname())
        self.names = {name.strip("[]").lower() for name in names}

    async def __call__(self, scope: dict, receive: Callable, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def send_counted(message: dict) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(message)
            await send(message)

        try:
            try:
                self.check(scope)
            except ApiError as error:
                await error.response()(scope, receive, send_counted)
            else:
                await self.app(scope, receive, send_counted)
        finally:
            self.metrics.answered(scope["path"], status, began)
            logger.info("%s %s %d %.3f s", scope["method"], quoted(scope["path"]), status,
                        time.perf_counter() - began)

    def check(self, scope: dict) -> None:
        """Raises ApiError for a request that does not come from where it may."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        for name in (b"host", b"origin", b"authorization"):
            if sum(name == other for other, _ in scope["headers"]) > 1:
                raise ApiError(400, f"{name.decode().title()}: stands twice in the request", code="invalid_headers")
        host = headers.get(b"host", "")
        if not self._is_ours(_name(host)):
            raise ApiError(403, f"Host: {quoted(host)} is no name of this server; ask for {self.settings.host}, or "
                           "start the server with that name among its allowed hosts", code="wrong_host")
        origin = headers.get(b"origin")
        if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
            raise ApiError(403, f"Origin: {quoted(origin)} is another site; only the server's own page may ask it",
                           code="wrong_origin")
        if len(scope["path"]) > MAX_PATH or scope["path"] not in OPEN and not self._knows_key(headers):
            self._refuse_path_or_key(scope["path"])

    def _is_ours(self, name: str) -> bool:
        if is_loopback(name) or name in self.names:
            return True
        try:
            ipaddress.ip_address(name)  # an address is no name that somebody could make to point here
        except ValueError:
            return False
        return not is_loopback(self.settings.host)

    def _knows_key(self, headers: dict[bytes, str]) -> bool:
        kind, _, key = headers.get(b"authorization", "").partition(" ")
        wanted = self.settings.api_key
        return not wanted or (kind.lower() == "bearer" and
                              hmac.compare_digest(key.strip().encode("latin-1"), wanted.encode("ascii")))

    def _refuse_path_or_key(self, path: str) -> None:
        if len(path) > MAX_PATH:
            raise ApiError(414, f"the address has more than {MAX_PATH} characters", code="address_too_long")
        raise ApiError(401, "Authorization: has to be `Bearer` and the server's key", code="invalid_api_key",
                       headers={"WWW-Authenticate": "Bearer"})


def _name(host: str) -> str:
    """A Host header without its port, lower case; "" for what is none."""
    parts = _HOST.fullmatch(host.lower())
    return (parts["address"] or parts["name"]) if parts else ""


def _add_headers(message: dict[str, Any]) -> None:
    present = {name.lower() for name, _ in message["headers"]}
    headers = {**HEADERS, "Content-Security-Policy": NO_CONTENT}
    message["headers"] = [*message["headers"], *((name.encode(), value.encode()) for name, value in headers.items()
                                                 if name.lower().encode() not in present)]

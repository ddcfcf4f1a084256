"""What stands between the network and the provider: names, deadlines, headers, and a log without secrets."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from mixerkey.parties.provider import Limits

HEADERS = {  # the page loads nothing from elsewhere and talks to nobody else
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
SAID_ONCE = {b"authorization", b"content-encoding", b"content-type", b"key-id"}
log = logging.getLogger("mixerkey.parties")


class Gate:
    """Answers to its own names only and to what means one thing; logs a line a request, and sets the security headers.

    A page elsewhere whose name is made to point here (DNS rebinding) is refused: it comes with that name. The log has
    no header, no body, no address, and of the path only the route. HEAD is GET without its body. The prefix under
    which a proxy shows the service may be there or not.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str], prefix: str) -> None:
        self.app, self.names, self.prefix = app, {name.lower() for name in names}, prefix.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        method = scope["method"]
        bare = scope["path"] == self.prefix  # without the slash that the page's links need
        path = scope["path"] if scope["path"].startswith(f"{self.prefix}/") else self.prefix + scope["path"]
        scope = {**scope, "method": "GET" if method == "HEAD" else method, "root_path": self.prefix, "path": path}
        try:
            answer = self.app
            if not known(dict(scope["headers"]).get(b"host", b"").decode("latin-1"), self.names):
                answer = JSONResponse({"detail": "this provider has another name: serve --name"}, 421)
            elif twice := said_twice(scope["headers"]):
                answer = JSONResponse({"detail": f"the request has {twice}; say it once"}, 400, {"Connection": "close"})
            elif bare:
                answer = RedirectResponse(f"{self.prefix}/")
            await answer(scope, receive, sending)
        except Exception:
            log.exception("a fault of the provider")
            if not status:
                await JSONResponse({"detail": "a fault of the provider; its log says which"}, 500)(
                    scope, receive, sending
                )
        finally:
            fields = {
                "method": method,
                "route": getattr(scope.get("route"), "path", "other"),
                "status": status or 500,
                "ms": round(1000 * (time.perf_counter() - started), 1),
            }
            log.info("request", extra={"fields": fields})


def said_twice(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """What a request says in two ways, of which a proxy before the provider may take the other; "" if nothing.

    >>> said_twice([(b"content-length", b"4"), (b"transfer-encoding", b"chunked")])
    'Content-Length and Transfer-Encoding'
    >>> said_twice([(b"key-id", b"00d1f2e3a4b5c6d7"), (b"key-id", b"4b5c6d700d1f2e3a")])
    'two of Key-Id'
    """
    said = Counter(name for name, _ in set(headers))
    if said.keys() >= {b"content-length", b"transfer-encoding"}:
        return "Content-Length and Transfer-Encoding"
    return next((f"two of {name.decode().title()}" for name in sorted(SAID_ONCE) if said[name] > 1), "")


def known(host: str, names: set[str]) -> bool:
    """Whether a Host header is an IP address or one of the names.

    >>> [known(host, {"localhost"}) for host in ("localhost:8000", "127.0.0.1", "[::1]:80", "evil.example", "")]
    [True, True, True, False, False]
    """
    if not host or "@" in host or "%" in host:  # a user and a zone belong into no Host header
        return False
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name in names or is_address(name)


def is_address(text: str) -> bool:
    """Whether a text is an address of either version of IP, without brackets or a port.

    >>> [is_address(text) for text in ("127.0.0.1", "::", "fe80::1%eth0", "[::1]", "127.0.0.1:80", "localhost")]
    [True, True, True, False, False, False]
    """
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


class JSONLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level and event, then the record's own fields."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line | getattr(record, "fields", {}))


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1 with an end to everything: to headers, to a request with its answer, to reading the answer.

    uvicorn waits for ever for the rest of a request's headers, and for a client that does not read. A connection that
    is in one of these steps for too long is cut, whatever is still to be written. Of one address it takes half of the
    connections, so that one client alone can't shut the others out.
    """

    limits: Limits
    addresses: Counter[str]
    _step: object = None
    _deadline: asyncio.TimerHandle | None = None
    _ended = False  # whether the client has said that it sends no more

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, and start the clock for the first request."""
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        self.addresses[self._address] += 1
        if self.addresses[self._address] > max(1, self.limits.connections // 2):
            transport.abort()
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Start the clock anew when a request's headers are there."""
        super().data_received(data)
        self._watch()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether to stay: who has sent a whole request, and says that it was the last, still waits for its answer."""
        self._ended = True
        return self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete

    def on_response_complete(self) -> None:
        """Start the clock anew for the next request, unless none can come."""
        super().on_response_complete()
        self._watch()
        if self._ended and not self.eof_received():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        super().connection_lost(exc)
        self.addresses[self._address] -= 1
        if self._deadline:
            self._deadline.cancel()

    def _watch(self) -> None:
        running = self.cycle is not None and not self.cycle.response_complete
        step = self.cycle, running
        if self._deadline is None or step != self._step:
            if self._deadline:
                self._deadline.cancel()
            seconds = self.limits.seconds * (3 if running else 1)  # body, answer, and reading it
            self._step, self._deadline = step, self.loop.call_later(seconds, self.transport.abort)

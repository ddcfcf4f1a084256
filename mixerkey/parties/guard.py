"""What stands between the network and the provider: bounds, deadlines, headers, and a log without secrets."""

from __future__ import annotations

import asyncio
import json
import logging
import time

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS = {  # the page loads nothing from elsewhere and talks to nobody else
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
log = logging.getLogger("mixerkey.parties")


class Gate:
    """Takes a bounded number of requests at a time, writes one line of log for each, and sets the page's headers.

    The log has no header, no body, no address, and of the path only the route.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit, self.active = app, limit, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        self.active += 1
        try:
            if self.active > self.limit:
                await JSONResponse({"detail": "busy; ask again"}, 503, {"Retry-After": "1"})(scope, receive, sending)
            else:
                await self.app(scope, receive, sending)
        finally:
            self.active -= 1
            log.info(
                "request",
                extra={
                    "fields": {
                        "method": scope["method"],
                        "route": getattr(scope.get("route"), "path", "other"),
                        "status": status,
                        "ms": round(1000 * (time.perf_counter() - started), 1),
                    }
                },
            )


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
    """uvicorn's HTTP/1.1, which would wait for ever for the rest of a request's headers: this one does not."""

    seconds: float
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Stop the clock when the headers are there, start it again with the next request's first byte."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        super().connection_lost(exc)
        if self._deadline:
            self._deadline.cancel()

    def _watch(self) -> None:
        complete = self.cycle is not None and not self.cycle.response_complete
        if complete and self._deadline:
            self._deadline.cancel()
            self._deadline = None
        elif not complete and self._deadline is None:
            self._deadline = self.loop.call_later(self.seconds, self.transport.close)

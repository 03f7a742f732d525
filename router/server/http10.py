"""Responses to HTTP/1.0 clients, as Go sends them.

The status line names HTTP/1.0, the body is not chunked, and `Connection: keep-alive` is sent if asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from vllama_pool.router.server.asgi import App, Headers, Message, Receive, Scope
from vllama_pool.router.server.client_probe import ResponseStart

_BODYLESS = (204, 304)


def for_http10(app: App, cycle: RequestResponseCycle) -> App:
    """Wrap the app for one request. Sets the cycle's `keep_alive` to the client's wish, and its transport."""
    cycle.transport = ResponseStart(cycle, http10=True)  # type: ignore[assignment]
    cycle.keep_alive = _wants_keep_alive(cycle.scope["headers"])

    async def wrapped(scope: Scope, receive: Receive, send: Any) -> None:
        await app(scope, receive, _Http10Send(cycle, send))

    return wrapped


class _Http10Send:
    """Lets the end of the connection end a body without Content-Length."""

    def __init__(self, cycle: RequestResponseCycle, send: Callable[[Any], Awaitable[None]]) -> None:
        self._cycle = cycle
        self._send = send
        self._until_close = False

    def __call__(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self._start(message)
        elif self._until_close:
            self._cycle.expected_content_length = len(message.get("body", b""))
        return self._send(message)

    def _start(self, message: Message) -> None:
        headers: Headers = list(message.get("headers", ()))
        names = {name for name, _ in headers}
        self._until_close = b"content-length" not in names and message["status"] not in _BODYLESS
        if self._until_close:
            self._cycle.chunked_encoding = False
            self._cycle.keep_alive = False
        elif self._cycle.keep_alive and b"connection" not in names:
            message["headers"] = [*headers, (b"connection", b"keep-alive")]


def _wants_keep_alive(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    words = {word.strip().lower() for name, value in headers if name == b"connection" for word in value.split(b",")}
    return b"keep-alive" in words and b"close" not in words

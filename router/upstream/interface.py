"""The seam between the router and its workers: what an HTTP client of the hot path must offer.

`router/upstream/client.py` implements it; an httpx implementation under `tests/support` is its oracle, and both pass
the same tests.

A response is read in two ways, one after the other. While the first content event is awaited the router pulls
(`read`). Then it attaches a sink and everything that arrives is pushed into it synchronously, from inside the
event loop's read callback, so that a token costs no task switch.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a worker listens. Hashable: it is the key of the keep-alive pool."""

    host: str
    """A name or address, IPv6 without brackets."""
    port: int
    prefix: str = ""
    """Path in front of every request's path, without a trailing slash."""
    tls: ssl.SSLContext | None = None
    """None for plain http."""
    authorization: str | None = field(default=None, repr=False)
    """Value of the Authorization header, such as "Bearer …"; never logged."""
    server_name: str | None = None
    """The name that `host` is a pinned address of: it goes into the Host header, and the worker's certificate must be
    for it. None where `host` is what the worker is known by."""


class TransportError(Exception):
    """The exchange failed below HTTP. Nothing is known of what the worker did with the request."""


class ConnectFailed(TransportError):
    """No connection: refused, unresolvable, TLS not verified, or not within the connect time-out."""


class ConnectionLost(TransportError):
    """The connection ended before the response was complete."""


class MalformedResponse(TransportError):
    """The worker's bytes are not HTTP/1.1."""


class ResponseTimeout(TransportError):
    """No response head within the time allowed."""


class Sink(Protocol):
    """Takes a response body as it arrives. Called from the event loop's read callback; must not block."""

    def data(self, chunk: bytes) -> None:
        """The next body bytes, never empty."""

    def eof(self) -> None:
        """The body is complete. Called at most once, and then nothing else is."""

    def lost(self, error: TransportError) -> None:
        """The body will not be completed. Called at most once, and then nothing else is."""


class Response(Protocol):
    """One response whose head has arrived. Its owner must call `close` on every path; it is idempotent."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case; repeated ones joined by ", "."""

    async def read(self) -> bytes:
        """The next body bytes; b"" at the end. Raises TransportError. Not after `attach`."""

    def attach(self, sink: Sink) -> None:
        """Push everything from here on, first what has arrived and was not read (synchronously)."""

    def pause(self) -> None:
        """Stop reading from the worker, so that it feels the client's back-pressure. Idempotent."""

    def resume(self) -> None:
        """Read on. Idempotent."""

    def close(self) -> None:
        """Give the connection back if the body is complete, else close it at once: vLLM then frees the
        sequence. Synchronous, idempotent; no sink is called afterwards."""


class Client(Protocol):
    """Sends requests over kept-alive connections, one request at a time on each."""

    async def send(
        self,
        endpoint: Endpoint,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        connect_timeout: float,
        head_timeout: float | None,
    ) -> Response:
        """Send one request and wait for its response head (1xx are skipped).

        A kept-alive connection that turns out to be closed before any byte of the response is replaced by a
        fresh one once, without the caller's noticing. Cancelling the call closes the connection.
        `connect_timeout` is how long the worker's machine may say nothing: to a connection that is made, and,
        where the client can tell, to a small request on one that was kept.
        Time-outs are in seconds. Raises ConnectFailed, ConnectionLost, MalformedResponse, ResponseTimeout.
        """

    async def aclose(self) -> None:
        """Close every connection, idle or not."""

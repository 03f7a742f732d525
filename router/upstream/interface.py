"""The HTTP client interface of the request path. An httpx implementation in `tests/support` passes the same tests.

The router pulls a response (`read`) until its first content event. Then it attaches a sink, into which every chunk is
pushed synchronously from the event loop's read callback, so that a token costs no task switch.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A worker's address; the key of the connection pool."""

    host: str
    """A name or address, IPv6 without brackets."""
    port: int
    prefix: str = ""
    """Path prefix, without a trailing slash."""
    tls: ssl.SSLContext | None = None
    """None for plain http."""
    authorization: str | None = field(default=None, repr=False)
    """Value of the Authorization header, such as "Bearer …"; never logged."""
    server_name: str | None = None
    """For the Host header and the certificate check if `host` is a pinned address; else None."""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        key = (self.host, self.port, self.prefix, self.tls, self.authorization, self.server_name)
        object.__setattr__(self, "_hash", hash(key))

    def __hash__(self) -> int:
        return self._hash  # a key of the connection pool, looked up several times per request


class TransportError(Exception):
    """The exchange failed below HTTP. The worker may or may not have processed the request."""


class ConnectFailed(TransportError):
    """No connection: refused, unresolvable, TLS not verified, or not within the connect time-out."""


class ConnectionLost(TransportError):
    """The connection ended before the response was complete."""


class MalformedResponse(TransportError):
    """The worker's bytes are not HTTP/1.1."""


class Sink(Protocol):
    """Receives a response body. Called from the event loop's read callback; must not block."""

    def data(self, chunk: bytes) -> None:
        """The next body bytes, never empty."""

    def eof(self) -> None:
        """The body is complete. The last call."""

    def lost(self, error: TransportError) -> None:
        """The body will not be completed. The last call."""


class Response(Protocol):
    """One response whose head has arrived. Its owner must call `close` on every path; it is idempotent."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case; repeated ones joined by ", "."""

    async def read(self) -> bytes:
        """The next body bytes; b"" at the end. Raises TransportError. Not after `attach`."""

    def attach(self, sink: Sink) -> None:
        """Push the rest of the body, beginning synchronously with the unread bytes."""

    def pause(self) -> None:
        """Stop reading from the worker, for back-pressure. Idempotent."""

    def resume(self) -> None:
        """Resume reading. Idempotent."""

    def close(self) -> None:
        """Release the connection if the body is complete; otherwise close it, so that vLLM frees the sequence.
        Synchronous and idempotent. No sink is called afterwards."""


class Client(Protocol):
    """Sends requests over keep-alive connections, one at a time on each."""

    async def send(
        self,
        endpoint: Endpoint,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        connect_timeout: float,
    ) -> Response:
        """Send one request and wait for its response head (1xx are skipped), as long as the caller does.

        If a kept-alive connection closes before any byte of the response, the request is sent once more on a new one.
        Cancelling the call closes the connection. `connect_timeout`: seconds until a new connection is made, and until
        the worker's host acknowledges a small request. Raises ConnectFailed, ConnectionLost, MalformedResponse.
        """

    async def aclose(self) -> None:
        """Close every connection, idle or not."""

"""The HTTP client interface of the request path. An httpx implementation in `tests/support` passes the same tests.

A response is pushed into a sink, synchronously from the event loop's read callback, so that a token costs no task
switch.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct


class Endpoint(Struct, frozen=True, cache_hash=True):
    """A worker's address; the key of the connection pool."""

    host: str
    """A name or address, IPv6 without brackets."""
    port: int
    prefix: str = ""
    """Path prefix, without a trailing slash."""
    tls: ssl.SSLContext | None = None
    """None for plain http."""
    authorization: str | None = None
    """Value of the Authorization header, such as "Bearer …"; never logged."""
    server_name: str | None = None
    """For the Host header and the certificate check if `host` is a pinned address; else None."""
    others: tuple[str, ...] = ()
    """Further pinned addresses of `server_name`, to try after `host`."""

    def __repr__(self) -> str:
        return f"<Endpoint {self.host}:{self.port}{self.prefix}>"


Headers = tuple[tuple[str, str], ...]
"""Names and values."""


class TransportError(Exception):
    """The exchange failed below HTTP. The worker may or may not have processed the request."""


class ConnectFailed(TransportError):
    """No connection: refused, unresolvable, TLS not verified, or not within the connect time-out."""


class ConnectionLost(TransportError):
    """The connection ended before the response was complete."""


class MalformedResponse(TransportError):
    """The worker's bytes are not HTTP/1.1."""


class ResponseTimeout(TransportError):
    """The worker was silent for too long; the text says how long."""


class Sink(Protocol):
    """Receives a response. Called from the event loop's read callback; must not block.

    A sink that raises gets `lost`.
    """

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """The first call, unless it is `lost`. 1xx are skipped. Header names are in lower case; repeated ones are
        joined by ", "."""

    def data(self, chunk: bytes) -> None:
        """The next body bytes, never empty."""

    def eof(self) -> None:
        """The body is complete. The last call."""

    def lost(self, error: TransportError) -> None:
        """The response will not be completed. The last call."""


class Exchange(Protocol):
    """A request and its response. Its owner must call `close` or `finish` on every path; both are idempotent."""

    last_heard: float
    """Time of the worker's latest bytes, or of the request before them; on the loop's clock."""

    def pause(self) -> None:
        """Stop reading from the worker, for back-pressure. Bytes that were read before are still pushed. Idempotent."""

    def resume(self) -> None:
        """Resume reading. Idempotent."""

    def fail(self, error: TransportError) -> None:
        """Close the connection and pass `error` to the sink, unless the response has ended."""

    def finish(self) -> None:
        """Discard the little that is missing of the response, so that its connection can be reused. The connection is
        closed if that takes long. No sink is called afterwards."""

    def close(self) -> None:
        """Release the connection if the response has ended; otherwise close it, so that vLLM frees the sequence.
        Synchronous and idempotent. No sink is called afterwards."""


class Client(Protocol):
    """Sends requests over keep-alive connections, one at a time on each."""

    def send(
        self,
        endpoint: Endpoint,
        method: str,
        path: str,
        *,
        headers: Headers,
        request_id: str,
        body: bytes,
        sink: Sink,
        connect_timeout: float,
    ) -> Exchange:
        """Send one request over an idle connection or a new one. Its response, or its failure, goes to `sink` later.

        If a kept-alive connection closes before any byte of the response, the request is sent once more on a new one.
        `headers`: those that all requests for this path share. `request_id` becomes X-Request-Id. `connect_timeout`:
        seconds until a new connection is made, and until the worker's host acknowledges a small request.
        """

    async def aclose(self) -> None:
        """Close every connection, idle or not."""

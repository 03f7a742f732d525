"""The HTTP/1.1 client of the request path: keep-alive connections to workers.

httpx costs some twenty times as much CPU per request and loses pool slots when requests are cancelled, which is common
in a router. Control traffic uses httpx.

    http1.py        bytes: the request head, the response parser
    exchange.py     one request and its response, pulled and pushed
    connection.py   a connection, for one exchange at a time
    client.py       chooses the connection for a request
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from vllama_pool.router.upstream.connection import UpstreamConnection
from vllama_pool.router.upstream.exchange import UpstreamExchange
from vllama_pool.router.upstream.http1 import request_head
from vllama_pool.router.upstream.interface import ConnectFailed, ConnectionLost, Endpoint

IDLE_EXPIRY = 4.0
"""Seconds. vLLM (uvicorn) closes idle connections after 5 s: we close first, so that no request races the close."""

OVERSLEPT = 0.2
"""Delay in seconds from which a late time-out shows a stall of this process, rather than of the worker."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Connections of a client."""

    open: int
    idle: int
    connecting: int

    @property
    def in_use(self) -> int:
        return self.open - self.idle


class UpstreamClient:
    """`interface.Client` for one event loop. It does not limit connections: admission does."""

    def __init__(self, *, idle_expiry: float = IDLE_EXPIRY) -> None:
        self._pool = ConnectionPool(idle_expiry)
        self._attempts: set[asyncio.Timeout] = set()
        self._closed = False

    def __repr__(self) -> str:
        counts = self.counts
        return (
            f"<UpstreamClient {counts.open} open, {counts.idle} idle, "
            f"{counts.in_use} in use, {counts.connecting} connecting>"
        )

    @property
    def counts(self) -> Counts:
        return Counts(open=self._pool.open, idle=self._pool.idle, connecting=len(self._attempts))

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
    ) -> UpstreamExchange:
        """As `interface.Client.send`. Raises ValueError for invalid headers (see `request_head`), before sending."""
        head = request_head(endpoint, method, path, headers, len(body))
        connection = self._pool.take(endpoint)
        if connection is not None:
            begun = asyncio.get_running_loop().time()
            exchange = connection.begin(method, head, body)
            try:
                await exchange.head(head_timeout)
            except ConnectionLost:
                if not exchange.untouched or connection.unreachable or self._closed:
                    raise
                if head_timeout is not None:
                    head_timeout -= asyncio.get_running_loop().time() - begun
            else:
                return exchange
        connection = await self._connect(endpoint, connect_timeout)
        exchange = connection.begin(method, head, body)
        await exchange.head(head_timeout)
        return exchange

    async def aclose(self) -> None:
        """Close every connection and return when the sockets are closed. Requests in progress fail with
        ConnectionLost or ConnectFailed. Idempotent."""
        self._closed = True
        self._pool.close()
        now = asyncio.get_running_loop().time()
        for attempt in self._attempts:
            if not attempt.expired():
                attempt.reschedule(now)
        while self._attempts or self._pool.open:
            self._pool.changed.clear()
            await self._pool.changed.wait()

    async def _connect(self, endpoint: Endpoint, timeout: float, *, again: bool = True) -> UpstreamConnection:
        """`again`: retry once if this process stalled during the attempt."""
        where = f"{endpoint.host}:{endpoint.port}"
        if self._closed:
            raise ConnectFailed(f"{where}: the client is closed")
        connection = UpstreamConnection(endpoint, self._pool, timeout)
        attempt = asyncio.timeout(timeout)
        self._attempts.add(attempt)
        try:
            async with attempt:
                await asyncio.get_running_loop().create_connection(
                    lambda: connection,
                    endpoint.host,
                    endpoint.port,
                    ssl=endpoint.tls,
                    server_hostname=endpoint.server_name if endpoint.tls else None,
                )
            if self._closed:
                connection.abort()
        except (OSError, UnicodeError, OverflowError) as error:
            if again and self._overslept(attempt):
                return await self._connect(endpoint, timeout, again=False)
            why = f"no connection within {timeout:g} s" if attempt.expired() else error or type(error).__name__
            raise ConnectFailed(f"{where}: {why}") from error
        finally:
            self._attempts.discard(attempt)
            self._pool.changed.set()
        if connection.closed:
            raise ConnectionLost(f"{where}: closed as soon as it was connected")
        self._pool.add(connection)
        return connection

    def _overslept(self, attempt: asyncio.Timeout) -> bool:
        due = attempt.when()
        expired = attempt.expired() and due is not None and not self._closed
        return expired and asyncio.get_running_loop().time() - (due or 0.0) > OVERSLEPT


class ConnectionPool:
    """The open and idle connections of a client. The newest idle one is used first, so that the pool shrinks after a
    burst."""

    def __init__(self, expiry: float) -> None:
        self.changed = asyncio.Event()
        """Set when a connection was closed."""
        self._expiry = expiry
        self._open: set[UpstreamConnection] = set()
        self._idle: dict[Endpoint, dict[UpstreamConnection, float]] = {}  # since when; oldest first
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def open(self) -> int:
        return len(self._open)

    @property
    def idle(self) -> int:
        return sum(len(connections) for connections in self._idle.values())

    def take(self, endpoint: Endpoint) -> UpstreamConnection | None:
        """Remove and return an idle connection that has not expired."""
        idle = self._idle.get(endpoint)
        if idle is None:
            return None
        oldest_good = asyncio.get_running_loop().time() - self._expiry
        taken = None
        while idle and taken is None:
            connection, since = idle.popitem()
            if since >= oldest_good and not connection.closed:
                taken = connection
            else:
                connection.abort()
        if not idle:
            del self._idle[endpoint]
        return taken

    def add(self, connection: UpstreamConnection) -> None:
        self._open.add(connection)

    def close(self) -> None:
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._idle.clear()
        for connection in tuple(self._open):
            connection.abort()

    def freed(self, connection: UpstreamConnection) -> None:
        if self._closed:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        self._idle.setdefault(connection.endpoint, {})[connection] = loop.time()
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._expiry, self._sweep)

    def gone(self, connection: UpstreamConnection) -> None:
        self._open.discard(connection)
        self.changed.set()
        idle = self._idle.get(connection.endpoint)
        if idle is not None:
            idle.pop(connection, None)
            if not idle:
                del self._idle[connection.endpoint]

    def _sweep(self) -> None:
        """Close expired idle connections, and schedule the next sweep."""
        loop = asyncio.get_running_loop()
        self._sweeper = None
        oldest_good = loop.time() - self._expiry
        due = None
        for endpoint, idle in tuple(self._idle.items()):
            for connection, since in tuple(idle.items()):
                if since > oldest_good:
                    due = since if due is None else min(due, since)
                    break
                del idle[connection]
                connection.abort()
            if not idle:
                del self._idle[endpoint]
        if due is not None:
            self._sweeper = loop.call_at(due + self._expiry, self._sweep)

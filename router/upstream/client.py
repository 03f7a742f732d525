"""The HTTP/1.1 client of the request path, and its pool of keep-alive connections.

httpx, which control traffic uses, costs some twenty times as much CPU per request and loses pool slots when requests
are cancelled, which is common in a router.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial

from vllama_pool.router.log_once import RepeatedWarning
from vllama_pool.router.upstream.addresses import Addresses, Resolve, resolve
from vllama_pool.router.upstream.connection import UpstreamConnection
from vllama_pool.router.upstream.exchange import FINISH_TIMEOUT, UpstreamExchange
from vllama_pool.router.upstream.expiry import Expiry
from vllama_pool.router.upstream.http1 import RequestHeads, UsualHeads
from vllama_pool.router.upstream.interface import ConnectFailed, ConnectionLost, Endpoint, Headers, Sink, TransportError
from vllama_pool.workers.vllm.connection_problem import explain

IDLE_EXPIRY = 4.0
"""Seconds. vLLM (uvicorn) closes idle connections after 5 s: we close first, so that no request races the close."""

LOOP_STALL = 0.2
"""Delay in seconds from which a late time-out shows a stall of this process, rather than of the worker."""


_log = logging.getLogger(__name__)


class UpstreamClient:
    """`interface.Client` for one event loop. It does not limit connections: admission does."""

    def __init__(self, *, idle_expiry: float = IDLE_EXPIRY, resolver: Resolve = resolve) -> None:
        self._pool = ConnectionPool(idle_expiry)
        self._addresses = Addresses(resolver)
        self._connecting: set[asyncio.Timeout] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._heads = RequestHeads()
        self._closed = False
        self.finishing = Expiry(FINISH_TIMEOUT, UpstreamExchange.close)
        self.usual_heads = UsualHeads()
        """As in `exchange.ExchangeOwner`."""
        self._failures = RepeatedWarning(_log, "the worker at %s cannot be reached: %s", time.monotonic)

    def __repr__(self) -> str:
        idle, in_use = self._pool.idle, self._pool.open - self._pool.idle
        return f"<UpstreamClient {idle} idle, {in_use} in use, {len(self._connecting)} connecting>"

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
    ) -> UpstreamExchange:
        """As `interface.Client.send`. Raises ValueError for invalid headers (see `RequestHeads`)."""
        head = self._heads.get(endpoint, method, path, headers, request_id, len(body))
        loop = asyncio.get_running_loop()
        exchange = UpstreamExchange(endpoint, method, head, body, sink, self, connect_timeout, loop)
        connection = self._pool.acquire(endpoint, exchange.last_heard)
        if connection is not None:
            connection.begin(exchange)
        else:
            exchange.connect()
        return exchange

    def connect(self, exchange: UpstreamExchange) -> asyncio.Task[None]:
        """As `exchange.ExchangeOwner.connect`."""
        task = asyncio.get_running_loop().create_task(self._begin_on_new_connection(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._connected)
        return task

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._pool.changed.set()

    async def _begin_on_new_connection(self, exchange: UpstreamExchange) -> None:
        try:
            connection = await self._connect(exchange.endpoint, exchange.connect_timeout)
        except TransportError as error:
            exchange.connect_failed(error)
        else:
            connection.begin(exchange)

    async def aclose(self) -> None:
        """Close every connection and wait until the sockets are closed. Requests in progress fail. Idempotent."""
        self._closed = True
        self._pool.close()
        self.finishing.clear()
        now = asyncio.get_running_loop().time()
        for attempt in self._connecting:
            if not attempt.expired():
                attempt.reschedule(now)
        while self._tasks or self._pool.open:
            self._pool.changed.clear()
            await self._pool.changed.wait()

    async def _connect(self, endpoint: Endpoint, timeout: float, *, retry: bool = True) -> UpstreamConnection:
        """`retry`: connect once more if this process stalled meanwhile."""
        where = f"{endpoint.host}:{endpoint.port}"
        if self._closed:
            raise ConnectFailed(f"{where}: the client is closed")
        attempt = asyncio.timeout(timeout)
        self._connecting.add(attempt)
        try:
            async with attempt:
                due = asyncio.get_running_loop().time() + timeout
                make = partial(UpstreamConnection, endpoint, self._pool, timeout)
                connection = await self._addresses.connect(endpoint, make, due)
            if self._closed:
                connection.abort()
        except (OSError, UnicodeError, OverflowError) as error:
            if retry and self._loop_stalled(attempt):
                return await self._connect(endpoint, timeout, retry=False)
            tls = endpoint.tls is not None
            why = f"no connection within {timeout:g} s" if attempt.expired() else explain(error, tls=tls)
            if not self._closed:
                self._failures.warn(where, why)
            raise ConnectFailed(f"{where}: {why}") from error
        finally:
            self._connecting.discard(attempt)
            del attempt  # it refers to the task, and so to the error of a cancelled one: no garbage to collect
            self._pool.changed.set()
        if connection.closed:
            raise ConnectionLost(f"{where}: closed as soon as it was connected")
        self._pool.add(connection)
        return connection

    def _loop_stalled(self, attempt: asyncio.Timeout) -> bool:
        due = attempt.when()
        expired = attempt.expired() and due is not None and not self._closed
        return expired and asyncio.get_running_loop().time() - (due or 0.0) > LOOP_STALL


class ConnectionPool:
    """The open connections of a client. The newest idle one is used first, so that the pool shrinks after a burst."""

    def __init__(self, idle_expiry: float) -> None:
        self.changed = asyncio.Event()
        """Set when a connection was closed."""
        self._open: set[UpstreamConnection] = set()
        self._idle: dict[Endpoint, dict[UpstreamConnection, None]] = {}  # oldest first
        self._expiry = Expiry(idle_expiry, UpstreamConnection.abort)
        self._closed = False

    @property
    def open(self) -> int:
        return len(self._open)

    @property
    def idle(self) -> int:
        return sum(len(connections) for connections in self._idle.values())

    def acquire(self, endpoint: Endpoint, now: float) -> UpstreamConnection | None:
        """Return an idle connection that has not expired. `now`: on the loop's clock."""
        idle = self._idle.get(endpoint)
        while idle:
            connection, _ = idle.popitem()
            if self._expiry.take(connection, now) and not connection.closed:
                return connection
            connection.abort()
        return None

    def add(self, connection: UpstreamConnection) -> None:
        self._open.add(connection)

    def close(self) -> None:
        self._closed = True
        self._expiry.clear()
        self._idle.clear()
        for connection in tuple(self._open):
            connection.abort()

    def release(self, connection: UpstreamConnection) -> None:
        if self._closed:
            connection.abort()
            return
        self._idle.setdefault(connection.endpoint, {})[connection] = None
        self._expiry.add(connection, asyncio.get_running_loop())

    def remove(self, connection: UpstreamConnection) -> None:
        self._open.discard(connection)
        self._expiry.discard(connection)
        self.changed.set()
        idle = self._idle.get(connection.endpoint)
        if idle is not None:
            idle.pop(connection, None)
            if not idle:
                del self._idle[connection.endpoint]

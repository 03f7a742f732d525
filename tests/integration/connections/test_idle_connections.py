"""The time for which a server keeps idle connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import uvicorn

from tests.support.fleet.live import Server
from tests.support.until import auntil
from vllama_pool.router.server.asgi import send_response
from vllama_pool.router.server.connection_lifetime import KEEPALIVE_SECONDS, LINGER, enable_keepalive
from vllama_pool.router.server.http_protocol import BoundedProtocol

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
GRACE = 60


@dataclass(frozen=True, slots=True)
class Running:
    server: Server
    port: int
    answered: asyncio.Event
    """Unset: responses wait."""


@contextlib.asynccontextmanager
async def serving(idle_timeout: int) -> AsyncIterator[Running]:
    answered = asyncio.Event()
    answered.set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answered.wait()
        await send_response(send, 200, b"ok")

    listening = socket.create_server(("127.0.0.1", 0))
    enable_keepalive(listening)
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        lifespan="off",
        log_level="error",
        timeout_keep_alive=idle_timeout,
        timeout_graceful_shutdown=GRACE,
    )
    server = Server(config)
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[listening]))
    try:
        await auntil(lambda: server.started, 10, "the server to start")
        yield Running(server, listening.getsockname()[1], answered)
    finally:
        server.should_exit = True
        answered.set()
        await task


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def send(self, data: bytes) -> None:
        self.write(data)
        await self._writer.drain()

    async def answered(self) -> None:
        await asyncio.wait_for(self.reader.readuntil(b"ok"), 30)

    async def closed(self, seconds: float = 30) -> None:
        assert await asyncio.wait_for(self.reader.read(), seconds) == b""

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


@contextlib.asynccontextmanager
async def client(running: Running, requests: int = 0) -> AsyncIterator[Client]:
    """A connection on which some requests were answered."""
    connected = Client(*await asyncio.open_connection("127.0.0.1", running.port))
    try:
        for _ in range(requests):
            await connected.send(GET)
            await connected.answered()
        yield connected
    finally:
        await connected.close()


async def test_an_idle_connection_closes_after_the_timeout() -> None:
    async with serving(1) as running, client(running, requests=2) as idle:
        since = time.monotonic()
        await idle.send(GET)
        await idle.answered()
        await idle.closed()
        assert time.monotonic() - since > 0.9


async def test_a_connection_without_a_request_closes_after_the_timeout() -> None:
    async with serving(1) as running, client(running) as idle:
        await idle.closed()


async def test_a_request_may_take_longer_than_the_timeout() -> None:
    async with serving(1) as running, client(running) as waiting:
        running.answered.clear()
        await waiting.send(GET)
        await asyncio.sleep(1.2)
        running.answered.set()
        await waiting.answered()


async def test_idle_connections_close_soon_when_stopping() -> None:
    async with (
        serving(3600) as running,
        client(running, requests=1) as used,
        client(running) as unused,
        client(running, requests=1) as partial,
    ):
        await partial.send(GET[:10])
        await auntil(lambda: len(running.server.server_state.connections) == 3, 5, "three connections")
        running.server.should_exit = True
        for idle in (used, unused, partial):
            await idle.closed(GRACE / 2)


async def test_the_last_of_pipelined_requests_ends_their_connection_when_stopping() -> None:
    async with serving(3600) as running, client(running) as pipelining:
        running.answered.clear()
        await pipelining.send(GET + GET)
        await auntil(lambda: running.server.server_state.tasks, 5, "the request to run")
        running.server.should_exit = True
        await auntil(lambda: not running.server.servers[0].is_serving(), 5, "the server to stop")
        running.answered.set()
        response = await asyncio.wait_for(pipelining.reader.read(), GRACE / 2)
        first, second = response.split(b"HTTP/1.1 200")[1:]
        assert b"connection: close" not in first
        assert b"connection: close" in second


async def test_a_request_that_arrives_just_after_the_stop_is_answered_and_ends_its_connection() -> None:
    async with (
        serving(3600) as running,
        client(running, requests=1) as used,
        client(running) as unused,
        client(running) as partial,
    ):
        await partial.send(GET[:10])
        await auntil(lambda: len(running.server.server_state.connections) == 3, 5, "three connections")
        running.server.should_exit = True
        await auntil(lambda: not running.server.servers[0].is_serving(), 5, "the server to stop")
        for connected, rest in ((used, GET), (unused, GET), (partial, GET[10:])):
            await connected.send(rest)
            response = await asyncio.wait_for(connected.reader.read(), GRACE / 2)
            assert response.count(b"HTTP/1.1 200") == 1
            assert b"connection: close" in response


async def test_a_request_that_arrived_while_the_process_was_paused_is_answered_when_stopping() -> None:
    async with serving(3600) as running, client(running, requests=1) as used, client(running) as unused:
        await auntil(lambda: len(running.server.server_state.connections) == 2, 5, "two connections")
        for connected in (used, unused):
            connected.write(GET)
        time.sleep(LINGER + 0.1)  # noqa: ASYNC251  nothing of the process runs
        for connection in list(running.server.server_state.connections):
            connection.drain()  # type: ignore[union-attr]
        for connected in (used, unused):
            response = await asyncio.wait_for(connected.reader.read(), GRACE / 2)
            assert response.count(b"HTTP/1.1 200") == 1
            assert b"connection: close" in response


async def test_the_kernel_probes_idle_clients() -> None:
    async with serving(3600) as running, client(running, requests=1):
        (connection,) = running.server.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_SECONDS

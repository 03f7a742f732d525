"""Clients that do not read their response, or read it slowly."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from tests.support.front_door import FrontDoor, front_door
from tests.support.until import auntil
from vllama_pool.router.server.refusal import Reason
from vllama_pool.router.server.slow_readers import SLOW_READERS, SlowReaders
from vllama_pool.router.server.writer import WRITER, ClientStalled

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
PIECE = b"x" * 32_768
LARGE = 16 * 2**20
"""More than the kernel buffers on both sides."""


class App:
    """Streams without end, or sends one large body."""

    def __init__(self) -> None:
        self.written = 0
        self.stalled = False

    async def stream(self, scope: Any, receive: Any, send: Any) -> None:
        writer = scope[WRITER]
        writer.start(200, ())
        try:
            while True:
                self.written += len(PIECE)
                if not writer.write(PIECE):
                    await writer.drained()
        except ClientStalled:
            self.stalled = True

    async def whole(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b"x" * LARGE})


@asynccontextmanager
async def serving(app: Callable[..., Any], limit: float) -> AsyncIterator[FrontDoor]:
    readers = SlowReaders(limit)
    running = asyncio.get_running_loop().create_task(readers.run())
    async with front_door(app, {SLOW_READERS: readers}) as door:
        yield door
    running.cancel()


async def ask(door: FrontDoor) -> socket.socket:
    """Send a request on a socket with little room for its response."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", door.port))
    await loop.sock_sendall(client, GET)
    return client


async def received(client: socket.socket) -> bytes:
    """Return what there is until the connection ends, also by a reset."""
    loop, data = asyncio.get_running_loop(), bytearray()
    try:
        while piece := await asyncio.wait_for(loop.sock_recv(client, 65_536), 30):
            data += piece
    except ConnectionError:
        pass
    return bytes(data)


async def test_a_client_that_reads_nothing_is_dropped_and_its_response_ends() -> None:
    app = App()
    async with serving(app.stream, limit=0.5) as door:
        client = await ask(door)
        await auntil(lambda: app.stalled, 20, "the response to end")
        await auntil(lambda: not door.server.server_state.connections, 10, "the connection to end")
        assert [refusal.reason for refusal in door.refusals] == [Reason.UNREAD]
        assert "VLLAMA_CLIENT_STALL" in door.refusals[0].text
        client.close()


async def test_a_client_that_is_dropped_is_reset_so_that_the_kernel_keeps_nothing_for_it() -> None:
    app = App()
    async with serving(app.stream, limit=0.5) as door:
        client = await ask(door)
        poll = select.poll()
        poll.register(client, 0)  # reports a reset; an end would wait behind what the client does not read
        await auntil(lambda: bool(poll.poll(0)), 20, "the client to be reset")
        assert app.stalled
        client.close()


async def test_a_client_that_reads_a_byte_at_a_time_is_dropped() -> None:
    app = App()
    async with serving(app.stream, limit=1.0) as door:
        client = await ask(door)

        async def read_a_byte() -> bool:
            with suppress(BlockingIOError, ConnectionError):
                client.recv(1)
            return app.stalled

        await auntil(read_a_byte, 20, "the client to be dropped", interval=0.05)
        client.close()


async def test_a_client_that_reads_slowly_gets_its_whole_response() -> None:
    """It takes several times the limit, at a hundred times the least rate."""
    async with serving(App().whole, limit=1.0) as door:
        client = await ask(door)
        loop, size, start = asyncio.get_running_loop(), 0, asyncio.get_running_loop().time()
        while loop.time() - start < 3:
            size += len(await asyncio.wait_for(loop.sock_recv(client, 65_536), 30))
            await asyncio.sleep(0.02)
        size += len(await received(client))
        assert size > LARGE
        assert door.refusals == []
        client.close()


@pytest.mark.parametrize("request_line", [b"HEAD / HTTP/1.1", b"GET / HTTP/1.0"])
async def test_a_response_that_uvicorn_sends_ends_with_its_client_too(request_line: bytes) -> None:
    async with serving(App().whole, limit=0.5) as door:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", door.port))
        await loop.sock_sendall(client, request_line + b"\r\nHost: x\r\n\r\n")
        await auntil(lambda: door.server.server_state.total_requests == 1, 10, "the response to be written")
        await auntil(lambda: not door.server.server_state.connections, 20, "the connection to end")
        client.close()

"""Request heads are bounded, bodies are not by this."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from router.bounded import MAX_HEAD, BoundedProtocol
from tests.support.live import Server
from tests.support.until import auntil


async def app(scope: Any, receive: Any, send: Any) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(uvicorn.Config(app, http=BoundedProtocol, lifespan="off", access_log=False, log_level="error"))
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[listening]))
    await auntil(lambda: server.started, 10, "the server to start")
    yield listening.getsockname()[1]
    server.should_exit = True
    await task


async def answer(port: int, *sent: bytes) -> bytes:
    """All that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for data in sent:
            writer.write(data)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b"HTTP/1.1 400 cut off"
    finally:
        writer.close()


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nX: ", b"GET /", b"GET / HTTP/1.1\r\nX"])
async def test_a_head_without_end_is_refused(port: int, start: bytes) -> None:
    assert (await answer(port, start, *[b"a" * 4096] * 1024)).startswith(b"HTTP/1.1 400")


async def test_many_headers_are_refused_as_well(port: int) -> None:
    headers = [b"X-%d: %b\r\n" % (number, b"a" * 100) for number in range(100_000)]
    assert (await answer(port, b"GET / HTTP/1.1\r\n", *headers)).startswith(b"HTTP/1.1 400")


async def test_large_bodies_and_many_requests_on_a_connection_pass(port: int) -> None:
    size = 4 * MAX_HEAD
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + b"b" * size
    get = b"GET / HTTP/1.1\r\nHost: x\r\nX: %b\r\n\r\n" % (b"a" * (MAX_HEAD // 3))
    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answers = await answer(port, post, *[get] * 8, post, last)
    assert answers.count(b"HTTP/1.1 200") == 11
    assert answers.count(str(size).encode()) == 2

"""Limits on request heads and unread bodies, and ignored upgrade offers, over real sockets."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from tests.support.fleet.live import Server
from tests.support.until import auntil
from vllama_pool.router.server.http_protocol import BoundedProtocol
from vllama_pool.router.server.request_reader import MAX_HEAD


async def app(scope: Any, receive: Any, send: Any) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def refusing(scope: Any, receive: Any, send: Any) -> None:
    """ASGI app that answers without reading the body."""
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"no"})


class SmallLimit(BoundedProtocol):
    max_unread = 2**20


@contextlib.asynccontextmanager
async def serving(app: Any, protocol: type[BoundedProtocol]) -> AsyncIterator[int]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(uvicorn.Config(app, http=protocol, lifespan="off", access_log=False, log_level="error"))
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[listening]))
    await auntil(lambda: server.started, 10, "the server to start")
    yield listening.getsockname()[1]
    server.should_exit = True
    await task


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with serving(app, BoundedProtocol) as listening:
        yield listening


async def answer(port: int, *sent: bytes) -> bytes:
    """Return everything received until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for data in sent:
            writer.write(data)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 30)
    except ConnectionError:
        return b"HTTP/1.1 4.. cut off"
    finally:
        writer.close()


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nX: ", b"GET /", b"GET / HTTP/1.1\r\nX"])
async def test_an_endless_header_is_refused(port: int, start: bytes) -> None:
    assert (await answer(port, start, *[b"a" * 4096] * 1024)).startswith(b"HTTP/1.1 4")


async def test_headers_over_the_size_limit_are_refused(port: int) -> None:
    headers = [b"X-%d: %b\r\n" % (number, b"a" * 100) for number in range(100_000)]
    assert (await answer(port, b"GET / HTTP/1.1\r\n", *headers)).startswith(b"HTTP/1.1 4")


async def test_a_client_that_sends_a_head_of_1_mb_reads_a_whole_431(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nX: " + b"a" * 2**20 + b"\r\n\r\n")
    await writer.drain()
    head, _, text = (await asyncio.wait_for(reader.read(), 30)).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b"content-length: %d\r\n" % len(text) in head
    assert text == b"the request's head is too large; send fewer or shorter headers"


async def test_large_bodies_and_many_requests_on_a_connection_pass(port: int) -> None:
    size = 4 * MAX_HEAD
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + b"b" * size
    get = b"GET / HTTP/1.1\r\nHost: x\r\nX: %b\r\n\r\n" % (b"a" * (MAX_HEAD // 3))
    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answers = await answer(port, post, *[get] * 8, post, last)
    assert answers.count(b"HTTP/1.1 200") == 11
    assert answers.count(str(size).encode()) == 2


async def test_a_body_sent_after_the_response_is_limited() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    async with serving(refusing, SmallLimit) as port:
        endless = await answer(port, head % 2**40, *[b"b" * 2**16] * 4096)
        assert endless.startswith(b"HTTP/1.1 4"), "the connection was reset, or closed after the response"
        last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        small = await answer(port, head % 2**19, b"b" * 2**19, last)
        assert small.count(b"HTTP/1.1 413") == 2, "the connection serves on"


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\n"


@pytest.mark.parametrize("cut", [0, 5, 30, 60, 90, 130, 150])
async def test_an_upgrade_offer_is_ignored_however_it_is_split(port: int, cut: int) -> None:
    first = b"POST / HTTP/1.1\r\nHost: x\r\n%bContent-Length: 5\r\n\r\nhello" % UPGRADE
    offer = b"Connection: close, Upgrade\r\nUpgrade: websocket\r\n"
    last = b"POST / HTTP/1.1\r\nHost: x\r\n%bContent-Length: 3\r\n\r\nbye" % offer
    both = first + last
    answers = await answer(port, both[:cut], both[cut:])
    assert answers.count(b"HTTP/1.1 200") == 2
    assert answers.partition(b"\r\n\r\n")[2].startswith(b"5")
    assert answers.endswith(b"3")


async def test_pipelined_upgrade_offers_are_answered_one_by_one(port: int) -> None:
    offer = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answers = await answer(port, offer * 3000 + last)
    assert answers.count(b"HTTP/1.1 200") == 3001

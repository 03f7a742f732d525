"""Clients that half-close, pipeline and leave, through a live router."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import socket
import struct
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from tests.support.fleet.live import Fleet, fleet
from tests.support.until import auntil
from vllama_pool.workers.simulated.options import Options

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOTICED = 1.0
"""Seconds within which a client that left frees its worker."""
SLOW = Options(model="slow:latest", tokens_per_second=20, ttft=0.01, answer_tokens=3000)
"""Its answers take longer than any wait of a test, so that a worker is free only if its client has left."""
QUICK = Options(model="quick:latest", tokens_per_second=20, ttft=0.01, answer_tokens=12)
VECTORS = Options(model="vectors:latest", embedding=True)
TURN = [{"role": "user", "content": "hello"}]
LINES = "x" * 120 + "\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    workers = {"slow": SLOW, "quick": QUICK, "vectors": VECTORS}
    async with fleet(tmp_path_factory.mktemp("state"), workers) as running:
        large = {"from": "quick", "model": "large", "system": LINES * 7000, "stream": False}
        assert (await running.http.post("/api/create", json=large)).status_code == 200
        yield running


@pytest.fixture
def router(shared: Fleet, caplog: pytest.LogCaptureFixture) -> Iterator[Fleet]:
    """The shared router. It logs no traceback during a test."""
    server_log = logging.getLogger("uvicorn.error")
    server_log.addHandler(caplog.handler)
    yield shared
    server_log.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def request(method: str, path: str, body: object = None, version: str = "1.1") -> bytes:
    encoded = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/{version}\r\nHost: localhost\r\nContent-Length: {len(encoded)}\r\n\r\n"
    return head.encode() + encoded


def chat(model: str, *, stream: bool = False, version: str = "1.1", **more: Any) -> bytes:
    return request("POST", "/api/chat", {"model": model, "messages": TURN, "stream": stream, **more}, version)


TAGS = request("GET", "/api/tags")


class Client:
    """A client that controls its socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    async def filled(self) -> None:
        """Wait until the router has sent what the client's kernel holds without a read."""
        sizes = [0]

        def unchanged() -> bool:
            sizes.append(self._count(termios.FIONREAD))
            return sizes[-1] > 0 and sizes[-1] == sizes[-2]

        await auntil(unchanged, 15, "a response that waits for its reader", interval=0.05)

    async def delivered(self) -> None:
        """Wait until the router's kernel has all that was sent."""
        await auntil(lambda: self._count(termios.TIOCOUTQ) == 0, 15, "the delivery")

    def _count(self, request: int) -> int:
        """Return the number of bytes in one of the socket's buffers."""
        return int.from_bytes(fcntl.ioctl(self._sock, request, bytes(4)), sys.byteorder)

    async def read(self, size: int = 2**16) -> bytes:
        return await asyncio.wait_for(self._loop.sock_recv(self._sock, size), 30)

    async def read_all(self) -> bytes:
        received = bytearray()
        while data := await self.read():
            received += data
        return bytes(received)

    def half_close(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._sock.close()

    def reset(self) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()


@asynccontextmanager
async def client(router: Fleet) -> AsyncIterator[Client]:
    sock = socket.socket()
    sock.setblocking(False)
    address = urlsplit(router.url)
    with sock:
        await asyncio.get_running_loop().sock_connect(sock, (address.hostname, address.port))
        yield Client(sock)


async def half_closed(router: Fleet, *requests: bytes) -> bytes:
    """Send requests and half-close; returns all that is received."""
    async with client(router) as connection:
        await connection.send(b"".join(requests))
        connection.half_close()
        return await connection.read_all()


def whole(response: bytes, status: int = 200) -> bytes:
    """Check status and length of a response. Returns its body."""
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.split(b" ", 2)[1] == str(status).encode(), response[:200]
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")]
    if lengths:
        assert lengths == [b"content-length: %d" % len(body)]
    else:
        assert body.endswith(b"0\r\n\r\n")
    return body


def running(router: Fleet) -> int:
    return router["slow"].running


async def begun(router: Fleet) -> None:
    """Wait until the slow worker runs a request and has produced tokens."""
    await auntil(lambda: running(router) > 0, 5, "the worker to run the request")
    before = router["slow"].tokens
    await auntil(lambda: router["slow"].tokens >= before + 3, 5, "tokens")


async def freed(router: Fleet) -> None:
    await auntil(lambda: running(router) == 0, NOTICED, "the worker to be free")


WRITES = {
    "copy": [request("POST", "/api/copy", {"source": "quick", "destination": "left"})],
    "create": [request("POST", "/api/create", {"model": "left", "from": "quick"})],
    "create, not streamed": [request("POST", "/api/create", {"model": "left", "from": "quick", "stream": False})],
    "copy and delete": [
        request("POST", "/api/copy", {"source": "quick", "destination": "left"}),
        request("DELETE", "/api/delete", {"model": "left"}),
    ],
}
READS = {
    "show": request("POST", "/api/show", {"model": "quick"}),
    "tags": TAGS,
    "ps": request("GET", "/api/ps"),
    "version": request("GET", "/api/version"),
    "embed": request("POST", "/api/embed", {"model": "vectors", "input": ["a", "b"]}),
    "chat": chat("quick"),
    "generate": request("POST", "/api/generate", {"model": "quick", "prompt": "hello", "stream": False}),
    "rendered": request("POST", "/api/chat", {"model": "quick", "messages": TURN, "_debug_render_only": True}),
    "rendered, not a chat": request(
        "POST", "/api/generate", {"model": "quick", "prompt": "hello", "_debug_render_only": True}
    ),
    "load": request("POST", "/api/generate", {"model": "quick"}),
    "models": request("GET", "/v1/models"),
}


@pytest.mark.parametrize("write", WRITES)
async def test_a_half_closed_client_gets_the_response_to_a_change(router: Fleet, write: str) -> None:
    for sent in WRITES[write]:
        whole(await half_closed(router, sent))


@pytest.mark.parametrize("read", READS)
async def test_a_half_closed_client_gets_its_whole_response(router: Fleet, read: str) -> None:
    whole(await half_closed(router, READS[read]))


async def test_a_half_closed_client_gets_a_large_response_that_it_reads_late(router: Fleet) -> None:
    async with client(router) as connection:
        await connection.send(request("POST", "/api/show", {"model": "large"}))
        connection.half_close()
        await connection.filled()
        assert len(whole(await connection.read_all())) > len(LINES) * 7000


@pytest.mark.parametrize("requests", [[chat("quick"), TAGS], [TAGS, chat("quick"), TAGS], [TAGS] * 50])
async def test_a_half_closed_client_gets_the_responses_to_all_pipelined_requests(
    router: Fleet, requests: list[bytes]
) -> None:
    received = await half_closed(router, *requests)
    assert received.count(b"HTTP/1.1 200 OK\r\n") == received.count(b"HTTP/1.") == len(requests)


async def test_a_half_closed_http_1_0_client_gets_its_response(router: Fleet) -> None:
    received = await half_closed(router, chat("quick", version="1.0"))
    whole(received)
    assert received.startswith(b"HTTP/1.0 200 OK\r\n")
    assert received.count(b"HTTP/") == 1


async def test_a_client_that_half_closes_within_its_body_gets_ollamas_400(router: Fleet) -> None:
    assert json.loads(whole(await half_closed(router, chat("quick")[:-5]), 400)) == {"error": "unexpected EOF"}


async def test_an_incomplete_request_after_a_complete_one_costs_nothing_of_the_first(router: Fleet) -> None:
    received = await half_closed(router, chat("quick"), chat("quick")[:-5])
    whole(received)
    assert received.count(b"HTTP/1.") == 1


@pytest.mark.rule(211)
async def test_a_streamed_generation_ends_when_its_client_half_closes(router: Fleet) -> None:
    async with client(router) as connection:
        await connection.send(chat("slow", stream=True))
        await begun(router)
        connection.half_close()
        await freed(router)


LEAVING = {
    "closed": Client.close,
    "reset": Client.reset,
}
PIPELINED = {
    "one": [chat("slow")],
    "two": [chat("slow"), chat("slow")],
    "three": [chat("slow"), TAGS, chat("slow")],
    "GET first": [TAGS, chat("slow")],
    "half of a head": [chat("slow"), TAGS[:20]],
    "half of a body": [chat("slow"), chat("slow")[:-5]],
    "garbage": [chat("slow"), b"\x00garbage\r\n\r\n"],
    "a large body": [chat("slow"), request("POST", "/api/chat", {"model": "slow", "x": "y" * 300_000})],
    "streamed": [chat("slow", stream=True), chat("slow")],
}


@pytest.mark.rule(213)
@pytest.mark.parametrize("leave", LEAVING)
@pytest.mark.parametrize("requests", PIPELINED)
async def test_a_client_that_pipelines_and_leaves_frees_its_worker(router: Fleet, requests: str, leave: str) -> None:
    async with client(router) as connection:
        await connection.send(b"".join(PIPELINED[requests]))
        await begun(router)
        LEAVING[leave](connection)
        await freed(router)
        before = router["slow"].requests["/v1/chat/completions"]
    await asyncio.sleep(0.1)
    assert router["slow"].requests["/v1/chat/completions"] == before, "a later request of the client was sent"


async def test_a_client_that_sends_its_second_request_later_and_leaves_frees_its_worker(router: Fleet) -> None:
    async with client(router) as connection:
        await connection.send(chat("slow"))
        await begun(router)
        await connection.send(chat("slow"))
        await connection.delivered()
        connection.close()
        await freed(router)


async def test_a_client_that_leaves_during_its_second_request_frees_its_worker(router: Fleet) -> None:
    async with client(router) as connection:
        await connection.send(chat("quick") + chat("slow") + TAGS)
        await begun(router)
        connection.close()
        await freed(router)


async def test_a_client_that_leaves_before_a_body_that_fills_the_buffers_was_sent_frees_its_worker(
    router: Fleet,
) -> None:
    async with client(router) as connection:
        body = request("POST", "/api/chat", {"model": "slow", "x": "y" * 30_000_000})
        sending = asyncio.create_task(connection.send(chat("slow") + body))
        await begun(router)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        connection.close()
        await freed(router)


@pytest.mark.parametrize("leave", LEAVING)
async def test_a_half_closed_client_that_leaves_frees_its_worker(router: Fleet, leave: str) -> None:
    async with client(router) as connection:
        await connection.send(chat("slow"))
        connection.half_close()
        await begun(router)
        LEAVING[leave](connection)
        await freed(router)


async def test_garbage_after_a_request_is_refused_after_its_response(router: Fleet) -> None:
    async with client(router) as connection:
        await connection.send(chat("quick") + b"\x00garbage\r\n\r\n" * 5)
        received = await connection.read_all()
    assert [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400"]


async def test_a_half_closed_client_gets_the_refusal_of_garbage_after_its_response(router: Fleet) -> None:
    received = await half_closed(router, chat("quick"), b"\x00garbage\r\n\r\n")
    assert [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400"]


async def test_a_half_closed_client_that_wants_keep_alive_is_disconnected_after_its_last_response(
    router: Fleet,
) -> None:
    keep = b"GET /api/version HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n"
    received = await half_closed(router, chat("quick"), keep)
    assert (received.count(b"HTTP/1.1 200 OK\r\n"), received.count(b"HTTP/1.0 200 OK\r\n")) == (1, 1)

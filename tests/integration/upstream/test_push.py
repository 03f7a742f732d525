"""Pushing a response into a sink, back-pressure, and the ends of an exchange."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.clients.exchanges import RecordingSink, begin, connections, read_all, send
from tests.support.until import auntil
from tests.support.vllm.scripted_server import Script, ScriptedServer, Step, apart, cut, flood, hold, request, when
from vllama_pool.router.upstream.client import UpstreamClient
from vllama_pool.router.upstream.exchange import UpstreamExchange
from vllama_pool.router.upstream.http1 import ResponseParser
from vllama_pool.router.upstream.interface import (
    Client,
    ConnectFailed,
    ConnectionLost,
    Endpoint,
    Exchange,
    MalformedResponse,
    TransportError,
)

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
READ = 256 * 1024
"""Maximum bytes that either event loop reads at once."""


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Calls(RecordingSink):
    """Records the names of its calls, too."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        super().head(status, headers)
        self.calls.append("head")

    def data(self, chunk: bytes) -> None:
        super().data(chunk)
        self.calls.append("data")

    def eof(self) -> None:
        super().eof()
        self.calls.append("eof")

    def lost(self, error: TransportError) -> None:
        super().lost(error)
        self.calls.append("lost")


async def test_a_sink_gets_head_data_and_end_in_order(client: Client) -> None:
    head = b"HTTP/1.1 404 Not Found\r\nX-Id: 7\r\nx-id: 8\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with ScriptedServer([request, apart(head, chunk(b"one"), chunk(b"two"), END), hold]) as server:
        sink = Calls()
        exchange = begin(client, server.endpoint, sink)
        assert await asyncio.wait_for(sink.ended, 30) is None
        assert sink.calls == ["head", "data", "data", "eof"]
        assert (sink.status, sink.headers["x-id"], sink.chunks) == (404, "7, 8", [b"one", b"two"])
        exchange.close()
        exchange.close()


async def test_a_response_in_one_read_is_pushed_with_head_data_and_end(ours: UpstreamClient) -> None:
    """Ours only: the oracle pushes chunk by chunk. Each call costs the router one write to its client."""
    async with ScriptedServer([request, CHUNKED + chunk(b"token ") * 50 + END, hold]) as server:
        sink = Calls()
        begin(ours, server.endpoint, sink)
        assert await asyncio.wait_for(sink.ended, 30) is None
        assert sink.calls == ["head", "data", "eof"]
        assert sink.chunks == [b"token " * 50]


@pytest.mark.parametrize(
    ("tail", "error"),
    [([cut], ConnectionLost), ([b"zz\r\n", hold], MalformedResponse), ([chunk(b"b")[:4], cut], ConnectionLost)],
)
async def test_a_sink_gets_one_error_after_the_bytes_that_arrived(
    client: Client, tail: list[Step], error: type[TransportError]
) -> None:
    go = asyncio.Event()
    async with ScriptedServer([request, CHUNKED + chunk(b"a"), when(go), *tail]) as server:
        sink = RecordingSink()
        exchange = begin(client, server.endpoint, sink)
        await auntil(lambda: sink.body == b"a")
        go.set()
        assert isinstance(await asyncio.wait_for(sink.ended, 30), error)
        assert sink.body in (b"a", b"ab")
        exchange.close()


@pytest.mark.parametrize("tail", [[cut], [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", hold]], ids=["closed", "malformed"])
async def test_a_response_lost_before_its_head_calls_the_sink_once(client: Client, tail: list[Step]) -> None:
    async with ScriptedServer([request, *tail]) as server:
        sink = Calls()
        exchange = begin(client, server.endpoint, sink)
        await asyncio.wait_for(sink.ended, 30)
        assert sink.calls == ["lost"]
        exchange.close()


async def test_the_sink_is_not_called_before_send_has_returned(client: Client, closed_port: int) -> None:
    sink = Calls()
    exchange = begin(client, Endpoint("127.0.0.1", closed_port), sink)
    assert sink.calls == []
    assert isinstance(await asyncio.wait_for(sink.ended, 30), ConnectFailed)
    exchange.close()


async def test_close_before_the_connection_is_open_sends_nothing(client: Client) -> None:
    async with ScriptedServer([request, CHUNKED + END, hold]) as server:
        sink = Calls()
        begin(client, server.endpoint, sink).close()
        assert await read_all(await send(client, server.endpoint)) == b""
        assert len(server.requests) == 1
        assert sink.calls == []


class Closing(RecordingSink):
    """Closes the exchange at the head or at the first bytes."""

    exchange: Exchange

    def __init__(self, at: str) -> None:
        super().__init__()
        self._at = at

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        super().head(status, headers)
        if self._at == "head":
            self.exchange.close()

    def data(self, chunk: bytes) -> None:
        super().data(chunk)
        self.exchange.close()


@pytest.mark.parametrize("tail", [chunk(b"b") + END, END, chunk(b"b") + b"zz\r\n", chunk(b"b")])
@pytest.mark.parametrize(("at", "chunks"), [("head", 0), ("data", 1)])
@pytest.mark.parametrize("at_once", [False, True], ids=["apart", "at once"])
async def test_no_sink_is_called_after_close(client: Client, at: str, chunks: int, tail: bytes, at_once: bool) -> None:
    parts = (CHUNKED, chunk(b"a"), tail)
    async with ScriptedServer([request, apart(b"".join(parts)) if at_once else apart(*parts), hold]) as server:
        sink = Closing(at)
        sink.exchange = begin(client, server.endpoint, sink)
        await auntil(lambda: sink.status and len(sink.chunks) == chunks)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(sink.chunks) == chunks
        assert not sink.ended.done()


async def test_close_in_mid_stream_closes_the_workers_connection(client: Client) -> None:
    async with ScriptedServer([request, CHUNKED + chunk(b"a"), hold]) as server:
        sink = RecordingSink()
        exchange = begin(client, server.endpoint, sink)
        await auntil(lambda: sink.body == b"a")
        exchange.close()
        await auntil(lambda: server.closed_by_client == 1)
        assert not sink.ended.done()


async def test_the_connection_of_a_pushed_response_is_reused(client: Client) -> None:
    async with ScriptedServer([request, CHUNKED, apart(chunk(b"a"), END), request, CHUNKED + END, hold]) as server:
        sink = RecordingSink()
        exchange = begin(client, server.endpoint, sink)
        assert await asyncio.wait_for(sink.ended, 30) is None
        exchange.close()
        await asyncio.sleep(0)  # the oracle closes in a task
        assert await read_all(await send(client, server.endpoint)) == b""
        assert len(server.peers) == 1


async def test_the_connection_is_released_before_the_sink_gets_the_end(ours: UpstreamClient) -> None:
    """Ours only. The reader of the end may send its next request on it."""

    class Next(RecordingSink):
        def eof(self) -> None:
            super().eof()
            self.idle = connections(ours).idle

    async with ScriptedServer([request, CHUNKED + chunk(b"a") + END, hold]) as server:
        sink = Next()
        begin(ours, server.endpoint, sink)
        await sink.ended
        assert sink.idle == 1


class Broken(Calls):
    """Raises in one of its calls."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self._at = at

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        super().head(status, headers)
        self._break("head")

    def data(self, chunk: bytes) -> None:
        super().data(chunk)
        self._break("data")

    def eof(self) -> None:
        self._break("eof")

    def _break(self, at: str) -> None:
        if self._at == at:
            raise ZeroDivisionError


@pytest.mark.parametrize(
    ("at", "ended"), [("head", b""), ("head", END), ("data", b""), ("data", END), ("data", b"zz\r\n"), ("eof", END)]
)
async def test_a_sink_that_raises_is_reported_and_gets_the_response_as_lost(
    ours: UpstreamClient, at: str, ended: bytes
) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    async with ScriptedServer([request, CHUNKED + chunk(b"a") + ended, hold]) as server:
        sink = Broken(at)
        begin(ours, server.endpoint, sink)
        assert isinstance(await asyncio.wait_for(sink.ended, 30), ConnectionLost)
        assert sink.calls == (["head", "lost"] if at == "head" else ["head", "data", "lost"])
        await auntil(lambda: connections(ours).open == 0)
        await auntil(lambda: server.closed_by_client == 1)
        assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]


@pytest.mark.parametrize("end", ["complete", "closed early", "finished"])
async def test_a_response_is_not_left_to_the_cycle_collector(ours: UpstreamClient, end: str) -> None:
    """Ours only. A router that collects thousands of them stops for it, in the middle of everybody's tokens."""
    go = asyncio.Event()
    rest: Script = [END] if end == "complete" else [when(go), END]
    async with ScriptedServer([request, CHUNKED + chunk(b"a"), *rest, hold]) as server:
        gc.collect()
        gc.disable()
        try:
            response = await send(ours, server.endpoint)
            assert await response.read() == b"a"
            if end == "complete":
                assert await response.read() == b""
            if end == "finished":
                response.exchange.finish()
                go.set()
                await auntil(lambda: connections(ours).in_use == 0)
            else:
                response.close()
            del response
            assert not [thing for thing in gc.get_objects() if isinstance(thing, UpstreamExchange | ResponseParser)]
        finally:
            gc.enable()


# back-pressure

TOTAL = 32 * 1024 * 1024
KERNEL = 24 * 1024 * 1024
"""More than the buffers of two loopback sockets."""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % TOTAL
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (TOTAL + 1)
"""The head of a response that does not end after TOTAL bytes."""


async def stalled(server: ScriptedServer) -> int:
    """Wait until the server has stopped sending; return the bytes that it sent."""
    before = -1

    def same() -> bool:
        nonlocal before
        before, last = server.peers[0].sent, before
        return before == last

    await auntil(lambda: server.peers)
    await auntil(same, interval=0.1)
    return before


async def test_a_paused_worker_stops_sending(client: Client) -> None:
    async with ScriptedServer([request, HEAD, flood(TOTAL), hold]) as server:
        sink = RecordingSink()
        exchange = begin(client, server.endpoint, sink)
        exchange.pause()
        exchange.pause()
        assert await stalled(server) < KERNEL
        assert len(sink.body) <= 2 * READ
        exchange.resume()
        exchange.resume()
        assert await asyncio.wait_for(sink.ended, 30) is None
        assert len(sink.body) == TOTAL
        exchange.close()


class Full(RecordingSink):
    """Pauses the exchange at its head or at each data."""

    exchange: Exchange

    def __init__(self, at: str) -> None:
        super().__init__()
        self._at = at

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        super().head(status, headers)
        if self._at == "head":
            self.exchange.pause()

    def data(self, chunk: bytes) -> None:
        super().data(chunk)
        if self._at == "data":
            self.exchange.pause()


@pytest.mark.parametrize("at", ["head", "data"])
async def test_a_sink_may_pause_the_exchange_from_its_callback(client: Client, at: str) -> None:
    async with ScriptedServer([request, ENDLESS, flood(TOTAL), hold]) as server:
        sink = Full(at)
        sink.exchange = begin(client, server.endpoint, sink)
        await auntil(lambda: sink.status)
        assert await stalled(server) < KERNEL
        received = len(sink.body)
        assert received <= 3 * READ
        sink.exchange.resume()
        await auntil(lambda: len(sink.body) > received)
        sink.exchange.close()
        await auntil(server.peers[0].client_closed.is_set)


async def test_a_connection_released_while_paused_resumes_reading(ours: UpstreamClient) -> None:
    """Otherwise the pool would not detect that the worker closed it."""
    go = asyncio.Event()
    async with ScriptedServer([request, when(go), CHUNKED + chunk(b"a") + END]) as server:
        sink = Full("data")
        sink.exchange = begin(ours, server.endpoint, sink)
        go.set()
        assert await sink.ended is None
        await auntil(lambda: connections(ours).open == 0)

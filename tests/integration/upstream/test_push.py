"""Pushing a response into a sink, and back-pressure."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from tests.support.clients.exchanges import RecordingSink, connections, read_all, send
from tests.support.until import auntil
from tests.support.vllm.scripted_server import Peer, Script, ScriptedServer, Step, apart, cut, flood, hold, request
from vllama_pool.router.upstream.client import UpstreamClient
from vllama_pool.router.upstream.exchange import HIGH_WATER, UpstreamExchange
from vllama_pool.router.upstream.http1 import ResponseParser
from vllama_pool.router.upstream.interface import Client, ConnectionLost, MalformedResponse, Response, TransportError

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
READ = 256 * 1024
"""Maximum bytes that either event loop reads at once."""


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def gate() -> tuple[asyncio.Event, Step]:
    """An event, and a step that waits for it."""
    event = asyncio.Event()

    async def wait(_: Peer) -> None:
        await event.wait()

    return event, wait


async def test_a_body_is_pulled_and_then_pushed_from_there_on(client: Client) -> None:
    go, wait = gate()
    script: Script = [request, CHUNKED + chunk(b"one"), wait, apart(chunk(b"two"), chunk(b"three"), END), hold]
    async with ScriptedServer(script) as server:
        response = await send(client, server.endpoint)
        assert await response.read() == b"one"
        sink = RecordingSink()
        response.attach(sink)
        go.set()
        assert await asyncio.wait_for(sink.ended, 5) is None
        assert sink.body == b"twothree"
        response.close()
        response.close()


async def test_attach_pushes_the_buffered_bytes_at_once(ours: UpstreamClient) -> None:
    """Ours only: the oracle pushes from a task."""
    go, wait = gate()
    script: Script = [request, CHUNKED + chunk(b"a"), apart(chunk(b"b"), chunk(b"c")), wait, END, hold]
    async with ScriptedServer(script) as server:
        response = await send(ours, server.endpoint)
        await auntil(lambda: "3 bytes buffered" in repr(response))
        sink = RecordingSink()
        response.attach(sink)
        assert sink.chunks == [b"abc"]
        go.set()
        assert await sink.ended is None


async def test_attach_pushes_a_complete_response_with_its_end_at_once(ours: UpstreamClient) -> None:
    async with ScriptedServer([request, CHUNKED + chunk(b"a") + chunk(b"b") + END, hold]) as server:
        response = await send(ours, server.endpoint)
        sink = RecordingSink()
        response.attach(sink)
        assert sink.chunks == [b"ab"]
        assert sink.ended.done()
        assert sink.ended.result() is None


async def test_attach_pushes_a_lost_response_with_its_error_at_once(ours: UpstreamClient) -> None:
    async with ScriptedServer([request, CHUNKED + chunk(b"a"), cut]) as server:
        response = await send(ours, server.endpoint)
        await auntil(lambda: connections(ours).open == 0)
        sink = RecordingSink()
        response.attach(sink)
        assert sink.chunks == [b"a"]
        assert isinstance(sink.ended.result(), ConnectionLost)


async def test_the_chunks_of_one_read_are_pushed_in_one_call(ours: UpstreamClient) -> None:
    """Ours only. Each call costs the router one write to its client."""
    go, wait = gate()
    async with ScriptedServer([request, CHUNKED, wait, chunk(b"token ") * 50 + END, hold]) as server:
        response = await send(ours, server.endpoint)
        sink = RecordingSink()
        response.attach(sink)
        go.set()
        assert await sink.ended is None
        assert sink.chunks == [b"token " * 50]


@pytest.mark.parametrize(
    ("tail", "error"),
    [([cut], ConnectionLost), ([b"zz\r\n", hold], MalformedResponse), ([chunk(b"b")[:4], cut], ConnectionLost)],
)
async def test_a_sink_gets_one_error_after_the_bytes_that_arrived(
    client: Client, tail: list[Step], error: type[TransportError]
) -> None:
    go, wait = gate()
    async with ScriptedServer([request, CHUNKED + chunk(b"a"), wait, *tail]) as server:
        response = await send(client, server.endpoint)
        sink = RecordingSink()
        response.attach(sink)
        await auntil(lambda: sink.body == b"a")
        go.set()
        assert isinstance(await asyncio.wait_for(sink.ended, 5), error)
        assert sink.body in (b"a", b"ab")
        response.close()
        await auntil(sink.ended.done)


class Closing(RecordingSink):
    """Closes the response at the first bytes."""

    response: Response

    def data(self, chunk: bytes) -> None:
        super().data(chunk)
        self.response.close()


@pytest.mark.parametrize("tail", [chunk(b"b") + END, END, chunk(b"b") + b"zz\r\n", chunk(b"b")])
async def test_no_sink_is_called_after_close(client: Client, tail: bytes) -> None:
    go, wait = gate()
    async with ScriptedServer([request, CHUNKED, wait, chunk(b"a"), apart(tail), hold]) as server:
        sink = Closing()
        sink.response = await send(client, server.endpoint)
        sink.response.attach(sink)
        go.set()
        await auntil(lambda: sink.chunks)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(sink.chunks) == 1
        assert not sink.ended.done()


async def test_close_in_mid_stream_closes_the_workers_connection(client: Client) -> None:
    async with ScriptedServer([request, CHUNKED + chunk(b"a"), hold]) as server:
        response = await send(client, server.endpoint)
        sink = RecordingSink()
        response.attach(sink)
        await auntil(lambda: sink.body == b"a")
        response.close()
        await auntil(lambda: server.closed_by_client == 1)
        assert not sink.ended.done()


async def test_the_connection_of_a_pushed_response_is_reused(client: Client) -> None:
    async with ScriptedServer([request, CHUNKED, apart(chunk(b"a"), END), request, CHUNKED + END, hold]) as server:
        response = await send(client, server.endpoint)
        sink = RecordingSink()
        response.attach(sink)
        assert await asyncio.wait_for(sink.ended, 5) is None
        response.close()
        await asyncio.sleep(0)  # the oracle closes in a task
        assert await read_all(await send(client, server.endpoint)) == b""
        assert len(server.peers) == 1


async def test_a_sink_may_send_the_next_request_from_eof(ours: UpstreamClient) -> None:
    """Ours only: the connection is released before `eof` is called."""

    class Next(RecordingSink):
        def eof(self) -> None:
            super().eof()
            self.idle = connections(ours).idle

    async with ScriptedServer([request, CHUNKED + chunk(b"a") + END, hold]) as server:
        sink = Next()
        (await send(ours, server.endpoint)).attach(sink)
        await sink.ended
        assert sink.idle == 1


async def test_a_second_reader_of_a_body_is_refused(ours: UpstreamClient) -> None:
    async with ScriptedServer([request, CHUNKED, hold]) as server:
        response = await send(ours, server.endpoint)
        reading = asyncio.create_task(response.read())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            await response.read()
        with pytest.raises(RuntimeError):
            response.attach(RecordingSink())
        response.close()
        with pytest.raises(ConnectionLost):  # the pending read fails too
            await reading


async def test_a_sink_that_raises_loses_its_connection_and_is_reported(ours: UpstreamClient) -> None:
    class Broken(RecordingSink):
        def data(self, chunk: bytes) -> None:
            raise ZeroDivisionError

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    go, wait = gate()
    async with ScriptedServer([request, CHUNKED, wait, chunk(b"a"), hold]) as server:
        response = await send(ours, server.endpoint)
        sink = Broken()
        response.attach(sink)
        go.set()
        assert isinstance(await asyncio.wait_for(sink.ended, 5), ConnectionLost)
        assert isinstance(reported[0]["exception"], ZeroDivisionError)
        await auntil(lambda: server.closed_by_client == 1 and connections(ours).open == 0)


@pytest.mark.parametrize("early", [False, True], ids=["complete", "closed early"])
async def test_a_response_is_not_left_to_the_cycle_collector(ours: UpstreamClient, early: bool) -> None:
    """Ours only. A router that collects thousands of them stops for it, in the middle of everybody's tokens."""
    async with ScriptedServer([request, CHUNKED + chunk(b"a"), *([] if early else [END]), hold]) as server:
        gc.collect()
        gc.disable()
        try:
            response = await send(ours, server.endpoint)
            assert await response.read() == b"a"
            if not early:
                assert await response.read() == b""
            response.close()
            del response
            assert not [thing for thing in gc.get_objects() if isinstance(thing, UpstreamExchange | ResponseParser)]
        finally:
            gc.enable()


TOTAL = 32 * 1024 * 1024
KERNEL = 24 * 1024 * 1024
"""More than the buffers of two loopback sockets."""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % TOTAL


async def stalled(server: ScriptedServer) -> int:
    """Wait until the server has stopped sending; return the bytes that it sent."""
    before = -1

    def same() -> bool:
        nonlocal before
        before, last = server.peers[0].sent, before
        return before == last

    await auntil(same, interval=0.1)
    return before


async def test_a_paused_worker_stops_sending(client: Client) -> None:
    async with ScriptedServer([request, HEAD, flood(TOTAL), hold]) as server:
        response = await send(client, server.endpoint)
        sink = RecordingSink()
        response.pause()
        response.pause()
        response.attach(sink)
        assert await stalled(server) < KERNEL
        assert len(sink.body) <= 2 * READ
        response.resume()
        response.resume()
        assert await asyncio.wait_for(sink.ended, 30) is None
        assert len(sink.body) == TOTAL
        response.close()


async def test_a_sink_may_pause_the_response_from_its_callback(client: Client) -> None:
    class Full(RecordingSink):
        response: Response

        def data(self, chunk: bytes) -> None:
            super().data(chunk)
            self.response.pause()

    async with ScriptedServer([request, HEAD, flood(TOTAL), hold]) as server:
        sink = Full()
        sink.response = await send(client, server.endpoint)
        sink.response.attach(sink)
        assert await stalled(server) < KERNEL
        received = len(sink.body)
        assert received <= 3 * READ
        sink.response.resume()
        await auntil(lambda: len(sink.body) > received)
        sink.response.close()
        await auntil(server.peers[0].client_closed.is_set)


async def test_an_unread_body_is_buffered_up_to_the_high_water_mark(ours: UpstreamClient) -> None:
    """Ours only: the oracle does not read ahead."""
    async with ScriptedServer([request, HEAD, flood(TOTAL), hold]) as server:
        response = await send(ours, server.endpoint)
        assert await stalled(server) < KERNEL
        held = int(repr(response).split(", ")[2].split()[0])
        assert HIGH_WATER < held <= HIGH_WATER + READ
        assert len(await response.read()) == held
        assert len(await read_all(response)) == TOTAL - held
        assert connections(ours).idle == 1


async def test_a_connection_released_while_paused_resumes_reading(ours: UpstreamClient) -> None:
    """Otherwise the pool would not detect that the worker closed it."""
    async with ScriptedServer([request, CHUNKED + END]) as server:
        response = await send(ours, server.endpoint)
        response.pause()
        response.close()
        await auntil(lambda: connections(ours).open == 0)
    go, wait = gate()

    class Pausing(RecordingSink):
        response: Response

        def data(self, chunk: bytes) -> None:
            super().data(chunk)
            self.response.pause()

    async with ScriptedServer([request, CHUNKED, wait, chunk(b"a") + END]) as server:
        sink = Pausing()
        sink.response = await send(ours, server.endpoint)
        sink.response.attach(sink)
        go.set()
        assert await sink.ended is None
        await auntil(lambda: connections(ours).open == 0)

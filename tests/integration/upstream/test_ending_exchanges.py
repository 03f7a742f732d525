"""Ending an exchange by `fail` and `finish`, and the time of the worker's latest bytes."""

from __future__ import annotations

import asyncio

from tests.support.clients.exchanges import RecordingSink, begin, connections, read_all, send
from tests.support.until import auntil
from tests.support.vllm.scripted_server import Script, ScriptedServer, apart, hold, request, when
from vllama_pool.router.upstream.client import UpstreamClient
from vllama_pool.router.upstream.interface import Client, Exchange, ResponseTimeout

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# fail


async def test_fail_closes_the_workers_connection_and_passes_the_error_to_the_sink_once(client: Client) -> None:
    async with ScriptedServer([request, CHUNKED + chunk(b"a"), hold]) as server:
        sink = RecordingSink()
        exchange = begin(client, server.endpoint, sink)
        await auntil(lambda: sink.body == b"a")
        late = ResponseTimeout("the worker was silent for 60 s")
        exchange.fail(late)
        assert sink.ended.result() is late
        exchange.fail(late)
        exchange.close()
        await auntil(lambda: server.closed_by_client == 1)


async def test_fail_before_the_first_byte_is_no_reason_to_send_the_request_again(ours: UpstreamClient) -> None:
    """Ours only: the oracle returns after the head."""
    async with ScriptedServer([request, CHUNKED + END, request, hold]) as server:
        await read_all(await send(ours, server.endpoint))
        sink = RecordingSink()
        exchange = begin(ours, server.endpoint, sink)
        await auntil(lambda: len(server.requests) == 2)
        exchange.fail(ResponseTimeout("the worker was silent for 60 s"))
        assert isinstance(sink.ended.result(), ResponseTimeout)
        await auntil(lambda: connections(ours).open == 0)
        assert len(server.requests) == 2


# finish


async def test_finish_discards_the_rest_and_reuses_the_connection(ours: UpstreamClient) -> None:
    """Ours only: the oracle does not count connections. The pause lets the rest wait in the kernel, so that no time
    passes in which the connection could be closed."""

    class Pausing(RecordingSink):
        exchange: Exchange

        def data(self, chunk: bytes) -> None:
            super().data(chunk)
            self.exchange.pause()

    rest = chunk(b"b") + END
    script: Script = [request, apart(CHUNKED, chunk(b"a"), rest), request, CHUNKED + END, hold]
    async with ScriptedServer(script) as server:
        sink = Pausing()
        sink.exchange = begin(ours, server.endpoint, sink)
        await auntil(lambda: server.peers and server.peers[0].sent == len(CHUNKED + chunk(b"a") + rest))
        assert sink.body == b"a"
        sink.exchange.finish()
        await auntil(lambda: connections(ours).idle == 1)
        assert sink.body == b"a"
        assert not sink.ended.done()
        assert await read_all(await send(ours, server.endpoint)) == b""
        assert len(server.peers) == 1


async def test_finish_closes_the_connection_of_a_response_that_goes_on(client: Client) -> None:
    async with ScriptedServer([request, CHUNKED + chunk(b"a"), hold]) as server:
        sink = RecordingSink()
        exchange = begin(client, server.endpoint, sink)
        await auntil(lambda: sink.body == b"a")
        exchange.finish()
        exchange.finish()
        await auntil(lambda: server.closed_by_client == 1)
        assert not sink.ended.done()


async def test_finish_after_the_end_leaves_the_connection_to_its_next_request(ours: UpstreamClient) -> None:
    async with ScriptedServer([request, CHUNKED + END, request, CHUNKED + chunk(b"a"), hold]) as server:
        first = await send(ours, server.endpoint)
        await read_all(first)
        second = await send(ours, server.endpoint)
        first.exchange.finish()
        assert await second.read() == b"a"
        assert connections(ours).in_use == 1
        second.close()


# last_heard


async def test_any_byte_of_the_worker_moves_last_heard(ours: UpstreamClient) -> None:
    """Ours only: the oracle does not see 1xx."""
    go = [asyncio.Event() for _ in range(3)]
    parts = (b"HTTP/1.1 100 Continue\r\n\r\n", CHUNKED[:9], CHUNKED[9:])
    script: Script = [request, *(step for event, part in zip(go, parts, strict=True) for step in (when(event), part))]
    async with ScriptedServer([*script, hold]) as server:
        before = asyncio.get_running_loop().time()
        exchange = begin(ours, server.endpoint, RecordingSink())
        assert exchange.last_heard >= before
        for event in go:
            exchange.last_heard = 0.0
            event.set()
            await auntil(lambda: exchange.last_heard >= before)
        exchange.close()

"""Cancelling a request at any moment closes its connection and leaks nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import Callable

import psutil
import pytest

from tests.support.clients.exchanges import RecordingSink, begin, connections, read_all, send
from tests.support.until import auntil
from tests.support.vllm.scripted_server import ScriptedServer, bytewise, hold, request, request_head, when
from vllama_pool.router.upstream.client import UpstreamClient
from vllama_pool.router.upstream.interface import Client, Endpoint, TransportError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"3\r\nabc\r\n" * 2 + b"0\r\n\r\n"
BODY = b"abc" * 2


async def pulled(client: Client, endpoint: Endpoint, body: bytes = b"x") -> bytes:
    return await read_all(await send(client, endpoint, "POST", body=body))


async def pushed(client: Client, endpoint: Endpoint) -> bytes:
    sink = RecordingSink()
    exchange = begin(client, endpoint, sink, "POST", body=b"x")
    try:
        await asyncio.wait([sink.ended])
        assert sink.ended.result() is None
        return sink.body
    finally:
        exchange.close()


async def cancel(task: asyncio.Task[bytes]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


PHASES = {
    "no answer": b"",
    "half a head": HEAD[:20],
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n",
    "body awaited": HEAD,
    "half a body": HEAD + b"12345",
}


@pytest.mark.parametrize("phase", PHASES)
async def test_cancelling_an_exchange_closes_the_workers_connection(client: Client, phase: str) -> None:
    async with ScriptedServer([request, PHASES[phase], hold]) as server:
        task = asyncio.create_task(pulled(client, server.endpoint))
        await auntil(lambda: server.requests and server.peers[0].sent == len(PHASES[phase]), interval=0.001)
        for _ in range(50):  # let the client read
            await asyncio.sleep(0)
        await cancel(task)
        assert task.cancelled()
        await auntil(lambda: server.closed_by_client == 1, 5)
        if isinstance(client, UpstreamClient):
            await auntil(lambda: connections(client).open == 0, 5)


async def test_cancelling_while_the_request_is_written_closes_the_connection(client: Client) -> None:
    go = asyncio.Event()
    async with ScriptedServer([request_head, when(go), hold]) as server:
        task = asyncio.create_task(pulled(client, server.endpoint, bytes(32 * 1024 * 1024)))
        await auntil(lambda: server.requests)
        await cancel(task)
        assert task.cancelled()
        go.set()
        await auntil(lambda: server.closed_by_client == 1)


async def test_cancelling_a_tls_handshake_closes_the_connection(
    ours: UpstreamClient, client_tls: ssl.SSLContext
) -> None:
    """Ours only: the oracle leaves the socket to the garbage collector."""
    async with ScriptedServer([hold]) as server:
        task = asyncio.create_task(pulled(ours, Endpoint("localhost", server.port, "", client_tls)))
        await auntil(lambda: server.peers)
        await cancel(task)
        await auntil(lambda: server.closed_by_client == 1, 5)
        assert repr(ours) == "<UpstreamClient 0 idle, 0 in use, 0 connecting>"


@pytest.mark.parametrize("way", [pulled, pushed])
@pytest.mark.parametrize("kept", [False, True], ids=["fresh", "kept"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_cancelling_after_any_number_of_loop_turns_leaks_no_connection(
    way: Callable[[Client, Endpoint], asyncio.Future[bytes]],
    kept: bool,
    tls: bool,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
) -> None:
    """Ours only: the oracle loses pool slots. Cancels after 0, 1, 2, … loop turns, until the exchange completes."""
    before = [request, STREAM] if kept else []
    async with ScriptedServer([*before, request, bytewise(STREAM), request], tls=server_tls if tls else None) as server:
        endpoint = Endpoint("127.0.0.1", server.port, "", client_tls if tls else None)
        turns = 0
        while True:
            client = UpstreamClient()
            if kept:
                assert await way(client, endpoint) == BODY
            task = asyncio.ensure_future(way(client, endpoint))
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.done():
                break
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await auntil(lambda: connections(client).in_use == connections(client).connecting == 0, 5, interval=0)  # noqa: B023
            await client.aclose()
            assert connections(client).open == 0
            turns += 1
            assert turns < 2000
        assert turns > 20
        assert task.result() == BODY
        await client.aclose()
        await auntil(lambda: all(peer.client_closed.is_set() for peer in server.peers), 5)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_closing_the_client_after_any_number_of_loop_turns_closes_every_connection(
    tls: bool, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """Ours only: the oracle does not close responses in progress."""
    async with ScriptedServer([request, bytewise(STREAM), hold], tls=server_tls if tls else None) as server:
        endpoint = Endpoint("127.0.0.1", server.port, "", client_tls if tls else None)
        turns = 0
        while True:
            client = UpstreamClient()
            task = asyncio.ensure_future(pulled(client, endpoint))
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.done():
                break
            await asyncio.wait_for(client.aclose(), 30)
            assert repr(client) == "<UpstreamClient 0 idle, 0 in use, 0 connecting>"
            try:
                assert await task == BODY  # it was complete in the same turn
            except TransportError:
                turns += 1
            else:
                break
        assert turns > 20
        await client.aclose()
        await auntil(lambda: all(peer.client_closed.is_set() for peer in server.peers), 5)


@pytest.mark.load
async def test_ten_thousand_cancels_leak_no_descriptor_and_no_task(ours: UpstreamClient) -> None:
    """Ours only: the oracle loses pool slots."""
    rng = random.Random(7)
    process = psutil.Process()
    cancelled = 0
    async with ScriptedServer([request, bytewise(STREAM)] * 10_000) as server:
        assert await pulled(ours, server.endpoint) == BODY
        fds, tasks = process.num_fds(), len(asyncio.all_tasks())
        while cancelled < 10_000:
            batch = [asyncio.create_task((pulled, pushed)[i % 2](ours, server.endpoint)) for i in range(200)]
            for task in batch:
                asyncio.get_running_loop().call_later(rng.uniform(0, 0.08), task.cancel)
            for result in await asyncio.gather(*batch, return_exceptions=True):
                if isinstance(result, asyncio.CancelledError):
                    cancelled += 1
                else:
                    assert result == BODY
            assert connections(ours).connecting == 0
        await auntil(lambda: connections(ours).in_use == 0)
        assert await pulled(ours, server.endpoint) == BODY
        # Each idle connection has two descriptors, the client's and the server's, and the server's task.
        others = connections(ours).open - 1
        await auntil(lambda: process.num_fds() <= fds + 2 * others)
        await auntil(lambda: len(asyncio.all_tasks()) <= tasks + others)
        await ours.aclose()
        await auntil(lambda: process.num_fds() <= fds - 2)
        await auntil(lambda: len(asyncio.all_tasks()) <= tasks - 1)

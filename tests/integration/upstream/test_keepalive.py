"""Connection reuse: selection, expiry, closing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from tests.support.clients.exchanges import RecordingSink, begin, connections, read_all, send
from tests.support.until import auntil
from tests.support.vllm.scripted_server import ScriptedServer, Step, apart, hold, request, when
from vllama_pool.router.upstream.client import UpstreamClient
from vllama_pool.router.upstream.interface import Client, ConnectionLost, Endpoint

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SERVE: list[Step] = [request, ANSWER] * 20


async def test_sequential_requests_share_one_connection(client: Client) -> None:
    async with ScriptedServer([*SERVE, hold]) as server:
        for _ in range(20):
            assert await read_all(await send(client, server.endpoint)) == b"ok"
        assert len(server.peers) == 1


async def test_concurrent_requests_use_separate_connections(client: Client) -> None:
    go = asyncio.Event()

    async def wait(_: object) -> None:
        await go.wait()

    async with ScriptedServer([request, wait, ANSWER, hold]) as server:
        tasks = [asyncio.create_task(send(client, server.endpoint)) for _ in range(8)]
        await auntil(lambda: len(server.requests) == 8)
        go.set()
        for response in await asyncio.gather(*tasks):
            assert await read_all(response) == b"ok"
        assert len(server.peers) == 8


async def test_the_repr_counts_connections_before_and_after_close(ours: UpstreamClient) -> None:
    """Ours only: the oracle does not count connections."""
    async with ScriptedServer([*SERVE, hold]) as server:
        response = await send(ours, server.endpoint)
        await read_all(response)
        assert repr(ours) == "<UpstreamClient 1 idle, 0 in use, 0 connecting>"
        response.close()
        assert (connections(ours).open, connections(ours).idle, connections(ours).in_use) == (1, 1, 0)
        await ours.aclose()
        assert repr(ours) == "<UpstreamClient 0 idle, 0 in use, 0 connecting>"


async def test_a_complete_response_releases_its_connection_before_close(ours: UpstreamClient) -> None:
    """Ours only: the oracle releases a connection at close."""
    async with ScriptedServer([*SERVE, hold]) as server:
        first = await send(ours, server.endpoint)
        second = await send(ours, server.endpoint)
        assert len(server.peers) == 1
        first.close()
        assert await read_all(second) == b"ok"  # not affected by closing the first
        assert await read_all(await send(ours, server.endpoint)) == b"ok"
        assert len(server.peers) == 1


async def test_the_newest_idle_connection_is_used_first(ours: UpstreamClient) -> None:
    """Ours only. It lets a pool shrink after a burst."""
    go = [asyncio.Event() for _ in range(3)]

    async def in_turn(peer: Any) -> None:
        await go[peer.server.peers.index(peer)].wait()

    async with ScriptedServer([request, in_turn, ANSWER, *SERVE, hold]) as server:
        tasks = [asyncio.create_task(send(ours, server.endpoint)) for _ in range(3)]
        await auntil(lambda: len(server.requests) == 3)
        for idle, event in enumerate(go, 1):
            event.set()
            await auntil(lambda n=idle: connections(ours).idle == n)  # type: ignore[misc]
        await asyncio.gather(*tasks)
        newest = server.peers[2].sent
        for i in range(5):
            await read_all(await send(ours, server.endpoint))
            assert server.peers[2].sent == newest + (i + 1) * len(ANSWER)


async def test_endpoints_with_different_keys_do_not_share_connections(client: Client) -> None:
    async with ScriptedServer([*SERVE, hold]) as server:
        for endpoint in (server.endpoint, Endpoint("127.0.0.1", server.port, authorization="Bearer x")):
            await read_all(await send(client, endpoint))
        assert [received.headers.get("authorization") for received in server.requests] == [None, "Bearer x"]


async def test_a_closed_idle_connection_is_replaced_by_a_new_one(client: Client) -> None:
    async with ScriptedServer([request, ANSWER]) as server:
        for _ in range(5):
            assert await read_all(await send(client, server.endpoint)) == b"ok"
            await auntil(server.peers[-1].writer.transport.is_closing)
        assert len(server.peers) == 5


@pytest.mark.parametrize("more", [b"x", b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_bytes_after_a_response_close_the_connection(ours: UpstreamClient, more: bytes, at_once: bool) -> None:
    """Ours only: the oracle closes it at the next request."""
    tail = [ANSWER + more] if at_once else [apart(ANSWER, more)]
    async with ScriptedServer([request, *tail, hold]) as server:
        assert await read_all(await send(ours, server.endpoint)) == b"ok"
        await auntil(lambda: server.closed_by_client == 1 and connections(ours).open == 0)
        assert await read_all(await send(ours, server.endpoint)) == b"ok"


async def test_idle_connections_expire() -> None:
    client = UpstreamClient(idle_expiry=0.2)
    async with ScriptedServer([request, ANSWER, hold]) as server:
        await asyncio.gather(*[send(client, server.endpoint) for _ in range(4)])
        await auntil(lambda: server.closed_by_client == len(server.peers) == 4)
        assert repr(client) == "<UpstreamClient 0 idle, 0 in use, 0 connecting>"
    await client.aclose()


async def test_each_idle_connection_expires_at_its_own_time() -> None:
    client = UpstreamClient(idle_expiry=0.2)
    go, loop = asyncio.Event(), asyncio.get_running_loop()
    async with ScriptedServer([request, when(go), ANSWER, hold], [request, ANSWER, hold]) as server:
        late = asyncio.create_task(send(client, server.endpoint))
        await auntil(lambda: server.requests)
        await read_all(await send(client, server.endpoint))
        idle = loop.time()
        await auntil(lambda: loop.time() > idle + 0.1)
        released = loop.time()
        go.set()
        await read_all(await late)
        await asyncio.wait_for(server.peers[0].client_closed.wait(), 30)
        assert loop.time() - released > 0.19
        await asyncio.wait_for(server.peers[1].client_closed.wait(), 30)
    await client.aclose()


async def test_a_connection_that_expired_while_the_event_loop_stalled_is_not_used() -> None:
    client = UpstreamClient(idle_expiry=0.05)
    async with ScriptedServer([request, ANSWER, hold]) as server:
        await read_all(await send(client, server.endpoint))
        time.sleep(0.1)  # noqa: ASYNC251 - blocks the loop on purpose
        await read_all(await send(client, server.endpoint))
        assert len(server.peers) == 2
    await client.aclose()


async def test_a_connection_in_use_does_not_expire() -> None:
    client = UpstreamClient(idle_expiry=0.05)
    go = asyncio.Event()

    async def wait(_: object) -> None:
        await go.wait()

    async with ScriptedServer([request, ANSWER[:-2], wait, ANSWER[-2:], hold], [request, ANSWER, hold]) as server:
        busy = await send(client, server.endpoint)
        await read_all(await send(client, server.endpoint))
        await auntil(lambda: server.closed_by_client == 1)  # the idle one expired
        go.set()
        assert await read_all(busy) == b"ok"
    await client.aclose()


async def test_aclose_fails_requests_in_progress_with_connection_lost(ours: UpstreamClient) -> None:
    """Ours only: the oracle does not close responses in progress."""
    async with ScriptedServer([request, ANSWER[:-1], hold]) as server:
        pulled, sink = await send(ours, server.endpoint), RecordingSink()
        begin(ours, server.endpoint, sink)
        reading = asyncio.create_task(read_all(pulled))
        waiting = asyncio.create_task(send(ours, Endpoint("127.0.0.1", server.port), "PUT", "/never"))
        await auntil(lambda: len(server.requests) >= 3)
        await ours.aclose()
        assert isinstance(await sink.ended, ConnectionLost)
        with pytest.raises(ConnectionLost):
            await reading
        (await waiting).close()
        assert connections(ours).open == 0
        await auntil(lambda: server.closed_by_client == 3)


@asynccontextmanager
async def uvicorn_server(keep_alive: float) -> AsyncIterator[Endpoint]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"b")]})
        for chunk in (b"o", b"k"):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})

    config = uvicorn.Config(app, port=0, lifespan="off", log_level="warning", timeout_keep_alive=keep_alive)  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    try:
        await auntil(lambda: server.started)
        yield Endpoint("127.0.0.1", server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        await task


async def test_requests_that_race_uvicorns_idle_close_succeed() -> None:
    """Ours only: the oracle raises. The pauses are just below and above uvicorn's keep-alive time-out."""
    client = UpstreamClient(idle_expiry=60)
    async with uvicorn_server(0.05) as endpoint:
        for i in range(60):
            assert await read_all(await send(client, endpoint, "POST", body=b"x")) == b"ok"
            await asyncio.sleep(0.045 + i % 20 * 0.0005)
    await client.aclose()


async def test_uvicorns_idle_close_removes_the_connection_from_the_pool() -> None:
    client = UpstreamClient(idle_expiry=60)
    async with uvicorn_server(0.1) as endpoint:
        await read_all(await send(client, endpoint))
        await auntil(lambda: connections(client).open == 0)
        assert await read_all(await send(client, endpoint)) == b"ok"
    await client.aclose()

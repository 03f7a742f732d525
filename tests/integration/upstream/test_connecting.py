"""Reaching a worker, or saying why not: addresses, names, time-outs, TLS, credentials."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
import trustme

from tests.support.clients.exchanges import read_all, send
from tests.support.until import auntil
from tests.support.vllm.scripted_server import Peer, ScriptedServer, Step, cut, hold, request, reset
from vllama_pool.router.upstream.client import UpstreamClient
from vllama_pool.router.upstream.interface import Client, ConnectFailed, ConnectionLost, Endpoint, ResponseTimeout

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LAST_ANSWER = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses: bound, so that nobody else gets it, but not listening."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
async def silent() -> AsyncIterator[int]:
    """A port that accepts and then says nothing, which is as far as TLS gets with it."""
    async with ScriptedServer([hold]) as server:
        yield server.port


async def test_a_refused_connection(client: Client, closed_port: int) -> None:
    with pytest.raises(ConnectFailed):
        await send(client, Endpoint("127.0.0.1", closed_port))


async def test_the_error_names_the_place_and_not_the_key(ours: UpstreamClient, closed_port: int) -> None:
    with pytest.raises(ConnectFailed, match=f"127.0.0.1:{closed_port}") as caught:
        await send(ours, Endpoint("127.0.0.1", closed_port, authorization="Bearer secret"))
    assert "secret" not in str(caught.value)
    assert ours.counts.connecting == 0


@pytest.mark.parametrize("script", [[], [reset]])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_connection_that_is_closed_at_once(
    ours: UpstreamClient, script: list[Step], tls: bool, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """Ours only: the oracle sometimes finds out in writing. A reset may even come within the making."""
    async with ScriptedServer(script, tls=server_tls if tls else None) as server:
        for _ in range(20):
            with pytest.raises((ConnectionLost, ConnectFailed)):
                await send(ours, Endpoint("localhost", server.port, "", client_tls if tls else None))
        await auntil(lambda: ours.counts.open == 0)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".invalid", "a..b"])
async def test_a_name_that_does_not_resolve(ours: UpstreamClient, host: str) -> None:
    """Ours only for the malformed ones, which the oracle refuses in its own way."""
    with pytest.raises(ConnectFailed):
        await send(ours, Endpoint(host, 80))


async def test_a_host_may_be_a_name(client: Client) -> None:
    async with ScriptedServer([request, ANSWER, hold]) as server:
        assert await read_all(await send(client, Endpoint("localhost", server.port))) == b"ok"
        assert server.requests[0].headers["host"] == f"localhost:{server.port}"


async def test_ipv6(client: Client) -> None:
    async with ScriptedServer([request, ANSWER, hold], host="::1") as server:
        assert await read_all(await send(client, server.endpoint)) == b"ok"
        assert server.requests[0].headers["host"] == f"[::1]:{server.port}"


async def test_a_prefix_and_a_bearer_token(client: Client) -> None:
    async with ScriptedServer([request, ANSWER, hold]) as server:
        await read_all(await send(client, Endpoint("127.0.0.1", server.port, "/gpu/3", None, "Bearer k"), path="/v1/x"))
        assert server.requests[0].line == "GET /gpu/3/v1/x HTTP/1.1"
        assert server.requests[0].headers["authorization"] == "Bearer k"


async def test_a_connection_that_takes_too_long(client: Client, silent: int, client_tls: ssl.SSLContext) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(ConnectFailed):
        await send(client, Endpoint("127.0.0.1", silent, "", client_tls), connect_timeout=0.1)
    assert loop.time() - begun < 2


async def test_a_pause_of_this_process_is_not_held_against_the_worker(
    ours: UpstreamClient, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """Ours only. When the loop comes to it, the time is over, whatever the worker has done meanwhile."""
    async with ScriptedServer([request, ANSWER, hold], tls=server_tls) as server:
        endpoint = Endpoint("localhost", server.port, "", client_tls)
        task = asyncio.create_task(send(ours, endpoint, connect_timeout=0.3))
        await asyncio.sleep(0)
        time.sleep(0.6)  # noqa: ASYNC251  a garbage collection, or a machine with too much to do
        assert await read_all(await task) == b"ok"


async def test_a_head_that_takes_too_long(client: Client) -> None:
    async with ScriptedServer([request, b"HTTP/1.1 200 OK\r\nA:", hold]) as server:
        with pytest.raises(ResponseTimeout):
            await send(client, server.endpoint, connect_timeout=0.1, head_timeout=0.1)
        await auntil(lambda: server.gone == 1)


async def test_interim_responses_do_not_stop_the_clock(client: Client) -> None:
    async with ScriptedServer([request, b"HTTP/1.1 100 Continue\r\n\r\n", hold]) as server:
        with pytest.raises(ResponseTimeout):
            await send(client, server.endpoint, connect_timeout=0.1, head_timeout=0.1)


async def test_the_head_timeout_does_not_limit_the_body(client: Client) -> None:
    go = asyncio.Event()

    async def wait(_: object) -> None:
        await go.wait()

    async with ScriptedServer([request, ANSWER[:-2], wait, b"ok", hold]) as server:
        response = await send(client, server.endpoint, connect_timeout=0.05, head_timeout=0.05)
        asyncio.get_running_loop().call_later(0.3, go.set)
        assert await read_all(response) == b"ok"


async def test_without_a_head_timeout_it_waits(client: Client) -> None:
    go = asyncio.Event()

    async def wait(_: object) -> None:
        await go.wait()

    async with ScriptedServer([request, wait, ANSWER, hold]) as server:
        asyncio.get_running_loop().call_later(0.2, go.set)
        assert await read_all(await send(client, server.endpoint, head_timeout=None)) == b"ok"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
async def test_tls_with_a_certificate_for_the_host(
    client: Client, host: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    listen = "::1" if host == "::1" else "127.0.0.1"
    async with ScriptedServer([request, ANSWER, request, ANSWER, hold], host=listen, tls=server_tls) as server:
        for _ in range(2):
            assert await read_all(await send(client, Endpoint(host, server.port, "", client_tls))) == b"ok"
        assert len(server.requests) == 2


async def test_tls_by_name_to_an_address_that_was_pinned(
    client: Client, authority: trustme.CA, client_tls: ssl.SSLContext
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("gpu.example").configure_cert(context)
    async with ScriptedServer([request, LAST_ANSWER, cut], [request, ANSWER], tls=context) as server:
        pinned = Endpoint("127.0.0.1", server.port, "", client_tls, server_name="gpu.example")
        assert await read_all(await send(client, pinned)) == b"ok"
        assert server.requests[0].headers["host"] == f"gpu.example:{server.port}"
        with pytest.raises(ConnectFailed, match=r"(?i)hostname"):
            await send(client, replace(pinned, server_name="elsewhere.example"))
        assert len(server.requests) == 1


async def test_tls_from_an_unknown_authority_is_refused(client: Client, server_tls: ssl.SSLContext) -> None:
    stranger = ssl.create_default_context()
    trustme.CA().configure_trust(stranger)
    async with ScriptedServer([request, ANSWER], tls=server_tls) as server:
        with pytest.raises(ConnectFailed, match=r"(?i)certificate"):
            await send(client, Endpoint("localhost", server.port, "", stranger))
        assert server.requests == []


async def test_tls_for_another_host_is_refused(
    client: Client, authority: trustme.CA, client_tls: ssl.SSLContext
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("elsewhere.example").configure_cert(context)
    async with ScriptedServer([request, ANSWER], tls=context) as server:
        with pytest.raises(ConnectFailed, match=r"(?i)hostname"):
            await send(client, Endpoint("localhost", server.port, "", client_tls))
        assert server.requests == []


async def test_tls_to_a_server_that_speaks_plain_http(client: Client, client_tls: ssl.SSLContext) -> None:
    async with ScriptedServer([b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", hold]) as server:
        with pytest.raises(ConnectFailed):
            await send(client, Endpoint("localhost", server.port, "", client_tls))


async def test_a_truncated_tls_stream_is_lost_even_without_length(
    ours: UpstreamClient, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """Ours only: the oracle takes the end of TCP for the end of the body."""
    head = b"HTTP/1.1 200 OK\r\n\r\nabc"
    async with ScriptedServer([request, head, cut], [request, head], tls=server_tls) as server:
        endpoint = Endpoint("localhost", server.port, "", client_tls)
        with pytest.raises(ConnectionLost):
            await read_all(await send(ours, endpoint))
        assert await read_all(await send(ours, endpoint)) == b"abc"


async def test_a_closed_client_connects_nowhere(ours: UpstreamClient, silent: int, client_tls: ssl.SSLContext) -> None:
    connecting = asyncio.create_task(send(ours, Endpoint("127.0.0.1", silent, "", client_tls), connect_timeout=60))
    await auntil(lambda: ours.counts.connecting == 1)
    await asyncio.wait_for(ours.aclose(), 1)  # the attempt is called off, not waited for
    for attempt in (connecting, send(ours, Endpoint("127.0.0.1", silent))):
        with pytest.raises(ConnectFailed):
            await attempt


async def test_a_large_request_waits_for_a_worker_that_is_busy_with_other_things(client: Client) -> None:
    """Its machine answers all the while, so the time to connect is no bound here."""

    async def busy(peer: Peer) -> None:
        await asyncio.sleep(1.0)

    body = bytes(16 * 1024 * 1024)
    async with ScriptedServer([busy, request, ANSWER, busy, request, ANSWER, hold]) as server:
        for _ in range(2):
            response = await client.send(
                server.endpoint, "POST", "/", headers={}, body=body, connect_timeout=0.3, head_timeout=10
            )
            assert await read_all(response) == b"ok"
        assert len(server.requests) == 2
        assert len(server.peers) == 1

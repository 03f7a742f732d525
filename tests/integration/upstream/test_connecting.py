"""Connecting to a worker: addresses, names, time-outs, TLS, credentials."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator

import pytest
import trustme
from msgspec.structs import replace

from tests.support.clients.exchanges import RecordingSink, begin, connections, read_all, send
from tests.support.until import auntil
from tests.support.vllm.scripted_server import Peer, ScriptedServer, Step, cut, hold, request, reset, when
from vllama_pool.router.upstream.client import UpstreamClient
from vllama_pool.router.upstream.interface import Client, ConnectFailed, ConnectionLost, Endpoint

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LAST_ANSWER = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
async def silent() -> AsyncIterator[int]:
    """A port that accepts connections but sends nothing, so that a TLS handshake never ends."""
    async with ScriptedServer([hold]) as server:
        yield server.port


async def test_a_refused_connection_raises_connect_failed(client: Client, closed_port: int) -> None:
    with pytest.raises(ConnectFailed):
        await send(client, Endpoint("127.0.0.1", closed_port))


async def test_a_connect_error_contains_the_address_but_not_the_api_key(ours: UpstreamClient, closed_port: int) -> None:
    with pytest.raises(ConnectFailed, match=f"127.0.0.1:{closed_port}") as caught:
        await send(ours, Endpoint("127.0.0.1", closed_port, authorization="Bearer secret"))
    assert "secret" not in str(caught.value)
    assert connections(ours).connecting == 0


@pytest.mark.parametrize("script", [[], [reset]])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_connection_closed_on_accept_raises_a_transport_error(
    ours: UpstreamClient, script: list[Step], tls: bool, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """Ours only: the oracle may fail while it writes. A reset may arrive before the connection is made."""
    async with ScriptedServer(script, tls=server_tls if tls else None) as server:
        for _ in range(20):
            with pytest.raises((ConnectionLost, ConnectFailed)):
                await send(ours, Endpoint("localhost", server.port, "", client_tls if tls else None))
        await auntil(lambda: connections(ours).open == 0)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".invalid", "a..b"])
async def test_an_unresolvable_host_raises_connect_failed(ours: UpstreamClient, host: str) -> None:
    """Ours only: the oracle raises other errors for malformed names."""
    with pytest.raises(ConnectFailed):
        await send(ours, Endpoint(host, 80))


async def test_a_host_name_is_resolved_and_sent_in_the_host_header(client: Client) -> None:
    async with ScriptedServer([request, ANSWER, hold]) as server:
        assert await read_all(await send(client, Endpoint("localhost", server.port))) == b"ok"
        assert server.requests[0].headers["host"] == f"localhost:{server.port}"


async def test_an_ipv6_address_is_bracketed_in_the_host_header(client: Client) -> None:
    async with ScriptedServer([request, ANSWER, hold], host="::1") as server:
        assert await read_all(await send(client, server.endpoint)) == b"ok"
        assert server.requests[0].headers["host"] == f"[::1]:{server.port}"


async def test_the_path_prefix_and_the_bearer_token_are_sent(client: Client) -> None:
    async with ScriptedServer([request, ANSWER, hold]) as server:
        await read_all(await send(client, Endpoint("127.0.0.1", server.port, "/gpu/3", None, "Bearer k"), path="/v1/x"))
        assert server.requests[0].line == "GET /gpu/3/v1/x HTTP/1.1"
        assert server.requests[0].headers["authorization"] == "Bearer k"


async def test_a_handshake_beyond_the_connect_timeout_raises_connect_failed(
    client: Client, silent: int, client_tls: ssl.SSLContext
) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(ConnectFailed):
        await send(client, Endpoint("127.0.0.1", silent, "", client_tls), connect_timeout=0.1)
    assert loop.time() - begun < 30, "the handshake alone would have taken a minute"


async def test_a_connect_timeout_caused_by_a_stalled_event_loop_is_retried(
    ours: UpstreamClient, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """Ours only. The loop is blocked beyond the time-out while the worker accepts the connection."""
    async with ScriptedServer([request, ANSWER, hold], tls=server_tls) as server:
        endpoint = Endpoint("localhost", server.port, "", client_tls)
        task = asyncio.create_task(send(ours, endpoint, connect_timeout=1.0))
        await asyncio.sleep(0)
        time.sleep(1.3)  # noqa: ASYNC251 - blocks the loop on purpose
        assert await read_all(await task) == b"ok"


async def test_a_response_head_may_take_longer_than_the_connect_timeout(client: Client) -> None:
    go = asyncio.Event()
    async with ScriptedServer([request, when(go), ANSWER, hold]) as server:
        asyncio.get_running_loop().call_later(1.2, go.set)
        assert await read_all(await send(client, server.endpoint, connect_timeout=1.0)) == b"ok"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
async def test_tls_accepts_a_certificate_for_the_host(
    client: Client, host: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    listen = "::1" if host == "::1" else "127.0.0.1"
    async with ScriptedServer([request, ANSWER, request, ANSWER, hold], host=listen, tls=server_tls) as server:
        for _ in range(2):
            assert await read_all(await send(client, Endpoint(host, server.port, "", client_tls))) == b"ok"
        assert len(server.requests) == 2


async def test_tls_checks_the_certificate_of_a_pinned_address_by_server_name(
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


async def test_tls_rejects_a_certificate_of_an_unknown_authority(client: Client, server_tls: ssl.SSLContext) -> None:
    stranger = ssl.create_default_context()
    trustme.CA().configure_trust(stranger)
    async with ScriptedServer([request, ANSWER], tls=server_tls) as server:
        with pytest.raises(ConnectFailed, match=r"(?i)certificate"):
            await send(client, Endpoint("localhost", server.port, "", stranger))
        assert server.requests == []


async def test_tls_rejects_a_certificate_for_another_host(
    client: Client, authority: trustme.CA, client_tls: ssl.SSLContext
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("elsewhere.example").configure_cert(context)
    async with ScriptedServer([request, ANSWER], tls=context) as server:
        with pytest.raises(ConnectFailed, match=r"(?i)hostname"):
            await send(client, Endpoint("localhost", server.port, "", client_tls))
        assert server.requests == []


async def test_tls_to_a_plain_http_server_raises_connect_failed(client: Client, client_tls: ssl.SSLContext) -> None:
    async with ScriptedServer([b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", hold]) as server:
        with pytest.raises(ConnectFailed):
            await send(client, Endpoint("localhost", server.port, "", client_tls))


async def test_a_tls_stream_without_close_notify_raises_connection_lost(
    ours: UpstreamClient, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """Ours only: the oracle takes the end of TCP as the end of the body."""
    head = b"HTTP/1.1 200 OK\r\n\r\nabc"
    async with ScriptedServer([request, head, cut], [request, head], tls=server_tls) as server:
        endpoint = Endpoint("localhost", server.port, "", client_tls)
        with pytest.raises(ConnectionLost):
            await read_all(await send(ours, endpoint))
        assert await read_all(await send(ours, endpoint)) == b"abc"


async def test_a_closed_client_cancels_connecting_and_refuses_requests(
    ours: UpstreamClient, silent: int, client_tls: ssl.SSLContext
) -> None:
    connecting = asyncio.create_task(send(ours, Endpoint("127.0.0.1", silent, "", client_tls), connect_timeout=60))
    await auntil(lambda: connections(ours).connecting == 1)
    await asyncio.wait_for(ours.aclose(), 30)
    for attempt in (connecting, send(ours, Endpoint("127.0.0.1", silent))):
        with pytest.raises(ConnectFailed):
            await attempt


async def test_a_request_sent_just_before_the_client_is_closed_has_failed_when_it_is(
    ours: UpstreamClient, silent: int
) -> None:
    sink = RecordingSink()
    begin(ours, Endpoint("127.0.0.1", silent), sink)
    await ours.aclose()
    assert sink.ended.done()
    assert isinstance(sink.ended.result(), ConnectFailed)


async def test_a_large_request_to_a_busy_worker_may_exceed_the_connect_timeout(client: Client) -> None:
    """Its host acknowledges bytes meanwhile, so the connect time-out does not apply."""

    async def busy(peer: Peer) -> None:
        await asyncio.sleep(1.0)

    body = bytes(16 * 1024 * 1024)
    async with ScriptedServer([busy, request, ANSWER, busy, request, ANSWER, hold]) as server:
        for _ in range(2):
            assert await read_all(await send(client, server.endpoint, "POST", body=body, connect_timeout=0.8)) == b"ok"
        assert len(server.requests) == 2
        assert len(server.peers) == 1

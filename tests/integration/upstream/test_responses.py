"""Response framings, split at every byte, pulled and pushed; and requests as the worker receives them."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.clients.exchanges import RecordingSink, begin, read_all, send
from tests.support.vllm.scripted_server import (
    ScriptedServer,
    Step,
    apart,
    bytewise,
    cut,
    hold,
    request,
    request_head,
    reset,
)
from vllama_pool.router.upstream.client import UpstreamClient
from vllama_pool.router.upstream.interface import Client, ConnectionLost, MalformedResponse

OK = b"HTTP/1.1 200 OK\r\n"
RESPONSES = {
    "content-length": OK + b"X-Id: 7\r\nContent-Length: 8\r\n\r\nabc\r\n\r\nd",
    "chunked": OK + b"X-Id: 7\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n5;q=1\r\n\r\n\r\nd\r\n0\r\nT: v\r\n\r\n",
    "1xx": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    + OK
    + b"X-Id: 7\r\nContent-Length: 8\r\n\r\nabc\r\n\r\nd",
}
BODY = b"abc\r\n\r\nd"


@pytest.mark.parametrize("name", RESPONSES)
async def test_a_response_cut_at_every_byte_is_pulled_whole(client: Client, name: str) -> None:
    data = RESPONSES[name]
    script = [step for i in range(1, len(data)) for step in (request, apart(data[:i], data[i:]))]
    async with ScriptedServer([*script, request, bytewise(data), hold]) as server:
        for _ in range(len(data)):
            response = await send(client, server.endpoint)
            assert (response.status, response.headers["x-id"]) == (200, "7")
            assert await read_all(response) == BODY
        assert len(server.peers) == 1


@pytest.mark.parametrize("name", RESPONSES)
async def test_a_response_cut_at_every_byte_is_pushed_whole(client: Client, name: str) -> None:
    data = RESPONSES[name]
    script = [step for i in range(1, len(data)) for step in (request, apart(data[:i], data[i:]))]
    async with ScriptedServer([*script, request, bytewise(data), hold]) as server:
        for _ in range(len(data)):
            sink = RecordingSink()
            exchange = begin(client, server.endpoint, sink)
            assert await asyncio.wait_for(sink.ended, 30) is None
            assert (sink.status, sink.headers["x-id"], sink.body) == (200, "7", BODY)
            exchange.close()


async def test_a_body_without_length_ends_with_the_connection(client: Client) -> None:
    data = OK + b"Content-Type: text/plain\r\n\r\nabc"
    async with ScriptedServer([request, data], [request, bytewise(data)]) as server:
        assert await read_all(await send(client, server.endpoint)) == b"abc"
        assert await read_all(await send(client, server.endpoint)) == b"abc"
        assert len(server.peers) == 2


@pytest.mark.parametrize(
    ("method", "status", "extra"),
    [
        ("HEAD", "200 OK", b"Content-Length: 5\r\n"),
        ("HEAD", "200 OK", b"Transfer-Encoding: chunked\r\n"),
        ("GET", "204 No Content", b""),
        ("GET", "304 Not Modified", b"Content-Length: 5\r\n"),
        ("GET", "200 OK", b"Content-Length: 0\r\n"),
    ],
)
async def test_a_response_without_body_leaves_the_connection_usable(
    client: Client, method: str, status: str, extra: bytes
) -> None:
    data = f"HTTP/1.1 {status}\r\n".encode() + extra + b"\r\n"
    async with ScriptedServer([request, data, request, data, hold]) as server:
        for _ in range(2):
            response = await send(client, server.endpoint, method)
            assert f"{response.status}" == status[:3]
            assert await read_all(response) == b""
        assert len(server.peers) == 1


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\nConnection: close\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 200 OK\r\nconnection: Close\r\n"],
)
async def test_a_connection_that_the_worker_will_close_is_not_reused(client: Client, head: bytes) -> None:
    data = head + b"Content-Length: 1\r\n\r\na"
    async with ScriptedServer([request, data, hold]) as server:
        for _ in range(2):
            assert await read_all(await send(client, server.endpoint)) == b"a"
        assert len(server.peers) == 2


async def test_an_http_1_0_response_may_keep_its_connection(client: Client) -> None:
    data = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na"
    async with ScriptedServer([request, data, request, data, hold]) as server:
        for _ in range(2):
            assert await read_all(await send(client, server.endpoint)) == b"a"
    assert len(server.peers) <= 2  # the oracle does not keep it, which is allowed too


async def test_the_request_arrives_with_its_path_headers_and_body(client: Client) -> None:
    async with ScriptedServer([request, OK + b"Content-Length: 0\r\n\r\n", hold]) as server:
        await read_all(
            await send(client, server.endpoint, "POST", "/v1/x?y=1", headers={"accept": "a/b"}, body=b"\0\xff")
        )
        (received,) = server.requests
        assert received.line == "POST /v1/x?y=1 HTTP/1.1"
        assert received.headers["host"] == f"127.0.0.1:{server.port}"
        assert (received.headers["accept"], received.headers["content-length"], received.body) == (
            "a/b",
            "2",
            b"\0\xff",
        )


async def test_a_large_request_body_arrives_whole(client: Client) -> None:
    body = bytes(range(256)) * 4 * 4096
    async with ScriptedServer([request, OK + b"Content-Length: 0\r\n\r\n", hold]) as server:
        await read_all(await send(client, server.endpoint, "POST", body=body))
        assert server.requests[0].body == body


BIG = bytes(32 * 1024 * 1024)
"""More than the kernel buffers for a peer that does not read."""
TOO_LARGE = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"


async def test_a_response_before_the_request_body_was_read_is_returned(client: Client) -> None:
    """The worker responds after the head, and reads the body later."""
    async with ScriptedServer([request_head, TOO_LARGE, hold]) as server:
        response = await send(client, server.endpoint, "POST", body=BIG)
        assert response.status == 413
        assert await read_all(response) == b"no"


@pytest.mark.parametrize("end", [cut, reset])
async def test_a_response_is_returned_though_the_worker_never_reads_the_request(
    ours: UpstreamClient, end: Step
) -> None:
    """Ours only: the oracle fails while it writes, before it reads."""
    async with ScriptedServer([request_head, apart(TOO_LARGE), end]) as server:
        response = await send(ours, server.endpoint, "POST", body=BIG)
        assert response.status == 413
        assert await read_all(response) == b"no"


async def test_a_connection_with_an_unfinished_request_is_not_reused(ours: UpstreamClient) -> None:
    """Ours only: the oracle writes the rest of the request first."""
    async with ScriptedServer([request_head, TOO_LARGE, hold], [request, TOO_LARGE, hold]) as server:
        await read_all(await send(ours, server.endpoint, "POST", body=BIG))
        await asyncio.wait_for(server.peers[0].client_closed.wait(), 30)
        assert await read_all(await send(ours, server.endpoint)) == b"no"
        assert len(server.peers) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
@pytest.mark.parametrize("end", [cut, reset])
async def test_a_new_connection_that_ends_before_the_head_raises_connection_lost(
    client: Client, data: bytes, end: Step
) -> None:
    async with ScriptedServer([request, data, end]) as server:
        with pytest.raises(ConnectionLost):
            await send(client, server.endpoint)
        assert len(server.peers) == 1


@pytest.mark.parametrize(
    "data", [OK + b"Content-Length: 9\r\n\r\nabc", OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"]
)
@pytest.mark.parametrize("end", [cut, reset])
async def test_an_incomplete_body_ends_with_connection_lost(client: Client, data: bytes, end: Step) -> None:
    async with ScriptedServer([request, data, end]) as server:
        sink = RecordingSink()
        exchange = begin(client, server.endpoint, sink)
        assert isinstance(await asyncio.wait_for(sink.ended, 30), ConnectionLost)
        assert b"abc".startswith(sink.body)  # a reset may overtake what was sent before it
        exchange.close()


async def test_a_reset_does_not_complete_a_body_without_length(ours: UpstreamClient) -> None:
    """Ours only: the oracle's result depends on whether the reset overtakes the bytes."""
    async with ScriptedServer([request, apart(OK + b"\r\nabc"), reset]) as server:
        response = await send(ours, server.endpoint)
        with pytest.raises(ConnectionLost):
            await read_all(response)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n",
        OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        OK + b"Content-Length: -3\r\n\r\nabc",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        OK + b"A b: c\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_a_malformed_head_raises_malformed_response(client: Client, data: bytes) -> None:
    async with ScriptedServer([request, data, hold]) as server:
        with pytest.raises(MalformedResponse):
            await send(client, server.endpoint)
        await asyncio.wait_for(server.peers[0].client_closed.wait(), 30)


@pytest.mark.parametrize(
    "data",
    [
        OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        OK + b"A: " + b"b" * 70_000 + b"\r\n\r\n",
        OK + b"A: b\r\n" * 200 + b"C: %s\r\n" % (b"d" * 70_000),
    ],
)
async def test_an_ambiguous_or_oversized_head_raises_malformed_response(ours: UpstreamClient, data: bytes) -> None:
    """Ours only: the oracle's parser repairs the first, and limits heads at 100 KiB."""
    async with ScriptedServer([request, data, hold]) as server:
        with pytest.raises(MalformedResponse):
            await send(ours, server.endpoint)
        await asyncio.wait_for(server.peers[0].client_closed.wait(), 30)


async def test_a_malformed_chunk_raises_after_the_bytes_before_it(client: Client) -> None:
    async with ScriptedServer(
        [request, apart(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"zz\r\n"), hold]
    ) as server:
        response = await send(client, server.endpoint)
        assert await response.read() == b"abc"
        with pytest.raises(MalformedResponse):
            await response.read()
        response.close()
        await asyncio.wait_for(server.peers[0].client_closed.wait(), 30)


@pytest.mark.parametrize("bad", ["a\r\nX: y", "a\nb", "a\0b"])
async def test_control_characters_in_headers_or_path_are_rejected(client: Client, bad: str) -> None:
    async with ScriptedServer([request, OK + b"Content-Length: 0\r\n\r\n", hold]) as server:
        with pytest.raises(ValueError, match=r".+"):
            await send(client, server.endpoint, headers={"x-a": bad})
        with pytest.raises(ValueError, match=r".+"):
            await send(client, server.endpoint, path="/" + bad)
        assert server.requests == []

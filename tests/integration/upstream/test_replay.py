"""The replay of a request whose kept connection closes before any byte of the response."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from tests.support.clients.exchanges import RecordingSink, begin, connections, read_all, send
from tests.support.until import auntil
from tests.support.vllm.scripted_server import (
    ScriptedServer,
    Step,
    bytewise,
    cut,
    hold,
    request,
    reset,
    stop_listening,
)
from vllama_pool.router.upstream.client import UpstreamClient
from vllama_pool.router.upstream.interface import Client, ConnectionLost, Endpoint, TransportError

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize("end", [cut, reset])
async def test_a_request_is_replayed_if_a_kept_connection_closes_before_any_response_byte(
    ours: UpstreamClient, end: Step
) -> None:
    """Ours only: the oracle raises."""
    async with ScriptedServer([request, ANSWER, request, end], [request, ANSWER, hold]) as server:
        assert await read_all(await send(ours, server.endpoint, "POST", body=b"1")) == b"ok"
        assert await read_all(await send(ours, server.endpoint, "POST", body=b"2")) == b"ok"
        assert [received.body for received in server.requests] == [b"1", b"2", b"2"]


async def test_a_request_is_replayed_only_once(ours: UpstreamClient) -> None:
    async with ScriptedServer([request, ANSWER, request, cut], [request, cut]) as server:
        await read_all(await send(ours, server.endpoint))
        with pytest.raises(ConnectionLost):
            await send(ours, server.endpoint)
        assert len(server.requests) == 3


async def test_a_request_is_not_replayed_after_the_first_response_byte(client: Client) -> None:
    async with ScriptedServer([request, ANSWER, request, b"H", cut]) as server:
        await read_all(await send(client, server.endpoint))
        with pytest.raises(ConnectionLost):
            await send(client, server.endpoint)
        assert len(server.requests) == 2


async def test_a_request_succeeds_at_any_loop_turn_after_the_worker_closed() -> None:
    async with ScriptedServer([request, ANSWER]) as server:
        for turns in range(20):
            client = UpstreamClient()
            await read_all(await send(client, server.endpoint))
            for _ in range(turns):
                await asyncio.sleep(0)
            assert await read_all(await send(client, server.endpoint)) == b"ok"
            await client.aclose()


async def test_a_replay_that_cannot_connect_is_a_lost_connection(ours: UpstreamClient) -> None:
    async with ScriptedServer([request, ANSWER, request, stop_listening, cut]) as server:
        endpoint = server.endpoint
        await read_all(await send(ours, endpoint))
        sink = RecordingSink()
        exchange = begin(ours, endpoint, sink)
        assert isinstance(await asyncio.wait_for(sink.ended, 30), ConnectionLost)
        exchange.close()
        assert repr(ours) == "<UpstreamClient 0 idle, 0 in use, 0 connecting>"


async def test_last_heard_moves_when_the_request_is_sent_again(ours: UpstreamClient) -> None:
    async with ScriptedServer([request, ANSWER, request, cut], [request, hold]) as server:
        await read_all(await send(ours, server.endpoint))
        exchange = begin(ours, server.endpoint, RecordingSink())
        exchange.last_heard = 0.0
        await auntil(lambda: exchange.last_heard)
        await auntil(lambda: len(server.requests) == 3)
        exchange.close()


@pytest.mark.parametrize("end", [cut, reset])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_closing_the_exchange_after_any_number_of_loop_turns_of_a_replay_leaks_nothing(
    end: Step, tls: bool, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """Closes it 0, 1, 2, … loop turns after the request, until the response is complete."""
    async with ScriptedServer([request, bytewise(ANSWER), request, end], tls=server_tls if tls else None) as server:
        endpoint = Endpoint("127.0.0.1", server.port, "", client_tls if tls else None)
        tasks = len(asyncio.all_tasks())
        for turns in range(2000):
            client, sink = UpstreamClient(), RecordingSink()
            await read_all(await send(client, endpoint))
            exchange = begin(client, endpoint, sink)
            for _ in range(turns):
                await asyncio.sleep(0)
            complete = sink.ended.done()
            exchange.close()
            await auntil(lambda: connections(client).in_use == connections(client).connecting == 0, 5, interval=0)  # noqa: B023
            assert sink.ended.done() is complete
            await client.aclose()
            assert connections(client).open == 0
            if complete:
                break
        assert turns > 20
        assert (sink.body, sink.ended.result()) == (b"ok", None)
        await auntil(lambda: len(asyncio.all_tasks()) == tasks)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_closing_the_client_after_any_number_of_loop_turns_of_a_replay_fails_the_request(
    tls: bool, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with ScriptedServer([request, bytewise(ANSWER), request, cut], tls=server_tls if tls else None) as server:
        endpoint = Endpoint("127.0.0.1", server.port, "", client_tls if tls else None)
        for turns in range(2000):
            client, sink = UpstreamClient(), RecordingSink()
            await read_all(await send(client, endpoint))
            begin(client, endpoint, sink)
            for _ in range(turns):
                await asyncio.sleep(0)
            await asyncio.wait_for(client.aclose(), 30)
            assert repr(client) == "<UpstreamClient 0 idle, 0 in use, 0 connecting>"
            assert sink.ended.done()
            if sink.ended.result() is None:
                break
            assert isinstance(sink.ended.result(), TransportError)
        assert turns > 20
        await auntil(lambda: all(peer.writer.transport.is_closing() for peer in server.peers))

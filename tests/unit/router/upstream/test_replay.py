"""The replay of a request whose connection turns out to have been closed before it."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.clients.begun_exchange import CLOSED, LATE, Begun, FakeConnection
from vllama_pool.router.upstream.interface import ConnectFailed

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n"


@pytest.mark.parametrize("orderly", [False, True])
async def test_a_request_is_sent_again_if_its_connection_may_have_been_closed_before(orderly: bool) -> None:
    one = Begun()
    if orderly:
        one.exchange.eof_received(truncated=False, replayable=True)
    else:
        one.exchange.connection_lost(CLOSED, replayable=True)
    assert one.connection.released == [False]
    assert len(one.owner.tasks) == 1
    one.exchange.begin(FakeConnection())
    one.exchange.data_received(HEAD + b"abcdef")
    assert (one.sink.status, one.sink.body) == (200, b"abcdef")
    assert one.ending is None
    one.owner.tasks[0].cancel()


@pytest.mark.parametrize("received", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", HEAD], ids=["a byte", "1xx", "head"])
async def test_a_request_is_not_sent_again_after_the_first_byte(received: bytes) -> None:
    one = Begun()
    one.exchange.data_received(received)
    one.exchange.connection_lost(CLOSED, replayable=True)
    assert one.ending is CLOSED
    assert not one.owner.tasks


async def test_a_request_is_sent_again_once_at_most() -> None:
    one = Begun()
    one.exchange.connection_lost(CLOSED, replayable=True)
    one.exchange.begin(FakeConnection())
    one.exchange.connection_lost(CLOSED, replayable=True)
    assert one.ending is CLOSED
    assert len(one.owner.tasks) == 1
    one.owner.tasks[0].cancel()


@pytest.mark.parametrize("way", ["close", "fail"])
async def test_an_exchange_that_ends_during_its_replay_cancels_it(way: str) -> None:
    one = Begun()
    one.exchange.connection_lost(CLOSED, replayable=True)
    if way == "close":
        one.exchange.close()
    else:
        one.exchange.fail(LATE)
    await asyncio.wait(one.owner.tasks)
    assert one.owner.tasks[0].cancelled()
    assert one.ending == ("open" if way == "close" else LATE)


async def test_a_replay_that_cannot_connect_fails_the_exchange() -> None:
    one = Begun()
    one.exchange.connection_lost(CLOSED, replayable=True)
    refused = ConnectFailed("connection refused")
    one.exchange.fail(refused)
    assert one.ending is refused


async def test_finish_during_a_replay_ends_it_after_its_time() -> None:
    one = Begun()
    one.exchange.connection_lost(CLOSED, replayable=True)
    one.exchange.finish()
    await asyncio.wait(one.owner.tasks, timeout=30)
    assert one.owner.tasks[0].cancelled()


@pytest.mark.parametrize("when", ["before", "during"])
async def test_a_pause_holds_on_the_connection_of_the_replay(when: str) -> None:
    one = Begun()
    if when == "before":
        one.exchange.pause()
    one.exchange.connection_lost(CLOSED, replayable=True)
    if when == "during":
        one.exchange.pause()
    other = FakeConnection()
    one.exchange.begin(other)
    assert not other.reading
    one.exchange.resume()
    assert other.reading
    one.owner.tasks[0].cancel()

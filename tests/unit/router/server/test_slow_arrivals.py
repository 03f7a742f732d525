"""Heads and bodies that arrive too slowly, or slowly enough."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.unit.router.server.test_http_protocol import GET, Connection
from vllama_pool.router.server.refusal import Reason

POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    opened = Connection()
    yield opened
    opened.close()


async def test_a_head_that_is_not_complete_in_time_gets_408_and_the_connection_closes(connection: Connection) -> None:
    connection.feed(b"GET / HTTP/1.1\r\n", b"Host: ")
    connection.check_after(9)
    assert not connection.transport.closing
    connection.check_after(11)
    assert connection.transport.written.startswith(b"HTTP/1.1 408 ")
    assert b"send it at once" in connection.transport.written
    assert connection.transport.closing
    assert [refusal.reason for refusal in connection.refusals] == [Reason.SLOW]


async def test_bytes_that_trickle_in_do_not_prolong_the_time_of_a_head(connection: Connection) -> None:
    connection.feed(b"GET / HTTP/1.1\r\n")
    for _ in range(5):
        connection.check_after(9)
        connection.feed(b"X: y\r\n")
    connection.check_after(11)
    assert connection.transport.closing


async def test_blank_lines_begin_a_head(connection: Connection) -> None:
    connection.feed(b"\r\n")
    connection.check_after(11)
    assert connection.transport.closing


async def test_idle_connections_are_not_slow_requests(connection: Connection) -> None:
    connection.check_after(1000)
    connection.feed(GET)
    await connection.responses(1)
    connection.check_after(1000)
    connection.feed(GET[:9], GET[9:])
    await connection.responses(2)
    connection.check_after(1000)
    assert not connection.transport.closing
    assert repr(connection.arrivals) == "<Arrivals 0 incomplete>"


async def test_a_slow_head_behind_a_running_request_is_refused_after_its_response(connection: Connection) -> None:
    connection.feed(GET + GET[:5])
    connection.check_after(11)
    written = await connection.responses(1)
    assert b"read 0" in written
    assert b"HTTP/1.1 408 Request Timeout\r\n" in written
    assert b"not complete within 10 s" in written
    assert connection.transport.closing


async def test_a_slow_body_behind_a_running_request_gets_408_after_its_response(connection: Connection) -> None:
    connection.feed(GET + POST)
    connection.check_after(61)
    written = await connection.responses(1)
    first, _, second = written.partition(b"read 0")
    assert first.startswith(b"HTTP/1.1 200 ")
    assert second.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b'{"error":{"message":"the request\'s body was not complete within 60 s' in second
    assert connection.transport.closing


async def test_a_body_below_the_least_rate_gets_408_in_the_format_of_its_path(connection: Connection) -> None:
    connection.feed(POST, b"x" * 1000)
    connection.check_after(59)
    assert not connection.transport.closing
    connection.check_after(61)
    head, _, body = connection.transport.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"content-type: application/json" in head
    assert body.startswith(b'{"error":{"message":"the request\'s body was not complete within 60 s')
    assert connection.transport.closing


async def test_a_body_may_take_longer_at_the_least_rate(connection: Connection) -> None:
    connection.feed(POST)
    for _ in range(600):
        connection.feed(b"x" * 1000)
        await asyncio.sleep(0)  # the app reads
    connection.check_after(70)
    assert not connection.transport.closing
    connection.check_after(80)
    assert connection.transport.closing


async def test_a_body_that_nobody_reads_any_more_is_slow_too() -> None:
    connection = Connection(reads_body=False)
    connection.feed(POST)
    await connection.responses(1, b"413")
    connection.feed(b"x")
    connection.check_after(61)
    assert connection.transport.closing
    assert connection.transport.written.count(b"HTTP/1.1") == 1
    connection.close()


async def test_a_lost_connection_is_not_watched(connection: Connection) -> None:
    opened = Connection()
    opened.feed(GET[:5])
    opened.close()
    assert repr(opened.arrivals) == "<Arrivals 0 incomplete>"

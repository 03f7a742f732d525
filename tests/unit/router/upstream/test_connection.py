"""A connection without a socket: requests, release, loss, and the limit on unacknowledged data."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from tests.support.clients.exchanges import RecordingSink
from tests.support.clients.fake_transport import FakeTransport
from vllama_pool.router.upstream.connection import (
    LARGE_REQUEST_ACK_TIMEOUT,
    MAX_KERNEL_BUFFERED,
    UpstreamConnection,
)
from vllama_pool.router.upstream.exchange import FINISH_TIMEOUT, UpstreamExchange
from vllama_pool.router.upstream.expiry import Expiry
from vllama_pool.router.upstream.http1 import UsualHeads
from vllama_pool.router.upstream.interface import ConnectionLost, Endpoint, TransportError

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Owner:
    """Records the calls of a connection."""

    def __init__(self) -> None:
        self.released = 0
        self.removed = 0

    def release(self, connection: UpstreamConnection) -> None:
        self.released += 1

    def remove(self, connection: UpstreamConnection) -> None:
        self.removed += 1


class Line:
    """A connection with its owner and its transport."""

    def __init__(self) -> None:
        self.owner = Owner()
        self.transport = FakeTransport()
        self.connection = UpstreamConnection(Endpoint("worker", 8100), self.owner, ack_timeout=1.5)
        self.connection.connection_made(self.transport)
        self.sink = RecordingSink()
        self.replayed: list[UpstreamExchange] = []
        self.finishing = Expiry(FINISH_TIMEOUT, UpstreamExchange.close)
        self.usual_heads = UsualHeads()

    def begin(self, body: bytes = b"") -> UpstreamExchange:
        """Write a request whose response goes to a new `sink`."""
        exchange = self.exchange(body)
        self.connection.begin(exchange)
        return exchange

    def exchange(self, body: bytes = b"") -> UpstreamExchange:
        self.sink = RecordingSink()
        return UpstreamExchange(
            self.connection.endpoint, "POST", b"head", body, self.sink, self, 5.0, asyncio.get_running_loop()
        )

    def connect(self, exchange: UpstreamExchange) -> asyncio.Task[None]:
        self.replayed.append(exchange)
        return asyncio.ensure_future(asyncio.sleep(0))

    @property
    def error(self) -> TransportError | None:
        return self.sink.ended.result()


async def test_a_request_is_written_and_counted() -> None:
    line = Line()
    line.begin(b" body")
    assert line.transport.written == b"head body"
    assert repr(line.connection) == "<UpstreamConnection worker:8100 in use, 1 requests>"


async def test_a_complete_response_releases_the_connection_for_the_next_request() -> None:
    line = Line()
    for _ in range(2):
        line.begin()
        line.connection.data_received(OK)
    assert line.owner.released == 2
    assert not line.transport.aborted
    assert repr(line.connection) == "<UpstreamConnection worker:8100 idle, 2 requests>"


@pytest.mark.parametrize(
    "response",
    [OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), OK + b"more", b"not HTTP\r\n\r\n"],
    ids=["connection: close", "bytes after the end", "malformed"],
)
async def test_a_connection_is_aborted_after_a_response_that_forbids_reuse(response: bytes) -> None:
    line = Line()
    line.begin()
    line.connection.data_received(response)
    assert line.transport.aborted
    assert line.owner.released == 0


async def test_a_connection_with_unsent_request_bytes_is_not_reused() -> None:
    line = Line()
    line.begin(bytes(100))
    line.transport.unsent = 50
    line.connection.data_received(OK)
    assert line.transport.aborted
    assert line.owner.released == 0


async def test_a_released_connection_reads_again() -> None:
    line = Line()
    line.begin().pause()
    assert not line.transport.reading
    line.connection.data_received(OK)
    assert line.transport.reading


async def test_unsolicited_bytes_abort_an_idle_connection() -> None:
    line = Line()
    line.connection.data_received(OK)
    assert line.transport.aborted


async def test_the_end_of_the_connection_completes_a_body_without_length() -> None:
    line = Line()
    line.begin()
    line.connection.data_received(b"HTTP/1.1 200 OK\r\n\r\nabc")
    line.connection.eof_received()
    assert (line.sink.body, line.error) == (b"abc", None)
    assert line.transport.aborted
    assert line.owner.released == 0


async def test_a_lost_connection_fails_its_exchange_and_leaves_its_owner() -> None:
    line = Line()
    line.begin()
    line.connection.connection_lost(ConnectionResetError("reset by peer"))
    assert isinstance(line.error, ConnectionLost)
    assert "reset by peer" in str(line.error)
    assert line.owner.removed == 1
    assert line.connection.closed


async def test_abort_fails_the_exchange_in_progress() -> None:
    line = Line()
    line.begin()
    line.connection.abort()
    assert "closed by this side" in str(line.error)
    assert line.transport.aborted


@pytest.mark.parametrize(
    ("error", "unreachable"),
    [
        (OSError(errno.ETIMEDOUT, "timed out"), True),
        (OSError(errno.EHOSTUNREACH, "no route to host"), True),
        (ConnectionResetError(errno.ECONNRESET, "reset"), False),
        (None, False),
    ],
)
async def test_only_an_unanswered_host_is_unreachable(error: Exception | None, unreachable: bool) -> None:
    line = Line()
    line.connection.connection_lost(error)
    assert line.connection.unreachable is unreachable


@pytest.mark.parametrize("orderly", [False, True])
@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
async def test_only_a_request_on_a_kept_connection_is_sent_again(kept: bool, orderly: bool) -> None:
    line = Line()
    if kept:
        line.begin()
        line.connection.data_received(OK)
    exchange = line.begin()
    if orderly:
        line.connection.eof_received()
    else:
        line.connection.connection_lost(ConnectionResetError("reset by peer"))
    assert line.replayed == ([exchange] if kept else [])
    assert line.sink.ended.done() is not kept


async def test_a_request_to_an_unreachable_host_is_not_sent_again() -> None:
    line = Line()
    line.begin()
    line.connection.data_received(OK)
    line.begin()
    line.connection.connection_lost(OSError(errno.ETIMEDOUT, "timed out"))
    assert line.replayed == []
    assert isinstance(line.error, ConnectionLost)


async def test_a_request_on_an_aborted_connection_is_not_sent_again() -> None:
    line = Line()
    line.begin()
    line.connection.data_received(OK)
    line.begin()
    line.connection.abort()
    line.connection.connection_lost(None)
    assert line.replayed == []
    assert isinstance(line.error, ConnectionLost)


async def test_an_exchange_that_was_paused_begins_on_a_connection_that_does_not_read() -> None:
    line = Line()
    exchange = line.exchange()
    exchange.pause()
    line.connection.begin(exchange)
    assert not line.transport.reading
    assert line.transport.written == b"head"


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux only")
async def test_a_large_request_may_stay_unacknowledged_for_longer_than_a_small_one() -> None:
    line = Line()
    for body in (b"", b"small", bytes(MAX_KERNEL_BUFFERED)):
        line.begin(body)
        line.connection.data_received(OK)
    limits = [value for _, option, value in line.transport.socket.options if option == socket.TCP_USER_TIMEOUT]
    assert limits == [1500, LARGE_REQUEST_ACK_TIMEOUT * 1000]

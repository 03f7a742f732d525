"""A connection without a socket: requests, release, loss, and the limit on unacknowledged data."""

from __future__ import annotations

import errno
import socket

import pytest

from tests.support.clients.fake_transport import FakeTransport
from vllama_pool.router.upstream.connection import (
    LARGE_REQUEST_ACK_TIMEOUT,
    MAX_KERNEL_BUFFERED,
    UpstreamConnection,
)
from vllama_pool.router.upstream.exchange import UpstreamExchange
from vllama_pool.router.upstream.interface import ConnectionLost, Endpoint

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

    def begin(self, body: bytes = b"") -> UpstreamExchange:
        return self.connection.begin("POST", b"head", body)


def test_a_request_is_written_and_counted() -> None:
    line = Line()
    line.begin(b" body")
    assert line.transport.written == b"head body"
    assert repr(line.connection) == "<UpstreamConnection worker:8100 in use, 1 requests>"


def test_a_complete_response_releases_the_connection_for_the_next_request() -> None:
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
def test_a_connection_is_aborted_after_a_response_that_forbids_reuse(response: bytes) -> None:
    line = Line()
    line.begin()
    line.connection.data_received(response)
    assert line.transport.aborted
    assert line.owner.released == 0


def test_a_connection_with_unsent_request_bytes_is_not_reused() -> None:
    line = Line()
    line.begin(bytes(100))
    line.transport.unsent = 50
    line.connection.data_received(OK)
    assert line.transport.aborted
    assert line.owner.released == 0


def test_a_released_connection_reads_again() -> None:
    line = Line()
    line.begin().pause()
    assert not line.transport.reading
    line.connection.data_received(OK)
    assert line.transport.reading


def test_unsolicited_bytes_abort_an_idle_connection() -> None:
    line = Line()
    line.connection.data_received(OK)
    assert line.transport.aborted


async def test_the_end_of_the_connection_completes_a_body_without_length() -> None:
    line = Line()
    exchange = line.begin()
    line.connection.data_received(b"HTTP/1.1 200 OK\r\n\r\nabc")
    line.connection.eof_received()
    assert [await exchange.read(), await exchange.read()] == [b"abc", b""]
    assert line.transport.aborted
    assert line.owner.released == 0


async def test_a_lost_connection_fails_its_exchange_and_leaves_its_owner() -> None:
    line = Line()
    exchange = line.begin()
    line.connection.connection_lost(ConnectionResetError("reset by peer"))
    with pytest.raises(ConnectionLost, match="reset by peer"):
        await exchange.head()
    assert line.owner.removed == 1
    assert line.connection.closed


async def test_abort_fails_the_exchange_in_progress() -> None:
    line = Line()
    exchange = line.begin()
    line.connection.abort()
    with pytest.raises(ConnectionLost, match="closed by this side"):
        await exchange.head()
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
def test_only_an_unanswered_host_is_unreachable(error: Exception | None, unreachable: bool) -> None:
    line = Line()
    line.connection.connection_lost(error)
    assert line.connection.unreachable is unreachable


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux only")
def test_a_large_request_may_stay_unacknowledged_for_longer_than_a_small_one() -> None:
    line = Line()
    for body in (b"", b"small", bytes(MAX_KERNEL_BUFFERED)):
        line.begin(body)
        line.connection.data_received(OK)
    limits = [value for _, option, value in line.transport.socket.options if option == socket.TCP_USER_TIMEOUT]
    assert limits == [1500, LARGE_REQUEST_ACK_TIMEOUT * 1000]

"""One exchange on a connection that records its calls: pushing, back-pressure, release, failure."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from tests.support.clients.begun_exchange import CLOSED, LATE, Begun, FakeConnection
from tests.support.clients.exchanges import RecordingSink
from tests.support.until import auntil
from vllama_pool.router.upstream.interface import ConnectionLost, MalformedResponse

HEAD = b"HTTP/1.1 200 OK\r\nX-Id: 7\r\nContent-Length: 6\r\n\r\n"


async def test_the_sink_gets_the_head_once_it_is_complete() -> None:
    one = Begun()
    one.exchange.data_received(HEAD[:20])
    assert not one.sink.status
    one.exchange.data_received(HEAD[20:])
    assert (one.sink.status, one.sink.headers["x-id"]) == (200, "7")
    assert one.ending == "open"


async def test_the_sink_gets_the_body_bytes_of_each_read_and_the_end() -> None:
    one = Begun()
    for data in (HEAD + b"abc", b"def"):
        one.exchange.data_received(data)
    assert one.sink.chunks == [b"abc", b"def"]
    assert one.ending is None


async def test_a_response_in_one_read_is_pushed_with_head_data_and_end() -> None:
    one = Begun()
    one.exchange.data_received(HEAD + b"abcdef")
    assert (one.sink.status, one.sink.body) == (200, b"abcdef")
    assert one.ending is None


@pytest.mark.parametrize("call", ["head", "data", "eof"])
async def test_the_connection_of_a_complete_response_is_released_before_the_sink_is_called(call: str) -> None:
    released: dict[str, list[bool]] = {}

    class Noting(RecordingSink):
        def head(self, status: int, headers: Mapping[str, str]) -> None:
            super().head(status, headers)
            released["head"] = list(one.connection.released)

        def data(self, chunk: bytes) -> None:
            released["data"] = list(one.connection.released)

        def eof(self) -> None:
            released["eof"] = list(one.connection.released)

    one = Begun(Noting())
    one.exchange.data_received(HEAD + b"abcdef")
    assert released[call] == [True]


async def test_the_end_of_a_body_without_length_completes_it() -> None:
    one = Begun()
    one.exchange.data_received(b"HTTP/1.1 200 OK\r\n\r\nabc")
    one.exchange.eof_received(truncated=False)
    assert (one.sink.body, one.ending, one.connection.released) == (b"abc", None, [False])


# back-pressure


async def test_pause_stops_reading_until_resume_and_lets_bytes_that_were_read_pass() -> None:
    one = Begun()
    one.exchange.pause()
    assert not one.connection.reading
    one.exchange.data_received(HEAD + b"abc")
    assert one.sink.body == b"abc"
    one.exchange.resume()
    assert one.connection.reading


async def test_pause_before_the_request_is_written_holds_for_its_connection() -> None:
    one = Begun()
    one.exchange.pause()
    other = FakeConnection()
    one.exchange.begin(other)
    assert not other.reading


# failure


async def test_a_failure_reaches_the_sink_after_the_bytes_before_it() -> None:
    one = Begun()
    one.exchange.data_received(HEAD + b"abc")
    one.exchange.eof_received(truncated=False)
    assert one.connection.released == [False]
    assert one.sink.body == b"abc"
    assert isinstance(one.ending, ConnectionLost)


async def test_malformed_bytes_fail_the_exchange_and_release_an_unusable_connection() -> None:
    one = Begun()
    one.exchange.data_received(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    assert isinstance(one.ending, MalformedResponse)
    assert one.connection.released == [False]


async def test_malformed_bytes_in_the_read_of_the_head_fail_the_exchange_after_it() -> None:
    one = Begun()
    one.exchange.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n")
    assert (one.sink.status, one.sink.body) == (200, b"abc")
    assert isinstance(one.ending, MalformedResponse)


@pytest.mark.parametrize("truncated", [False, True])
async def test_only_an_orderly_end_completes_a_body_without_length(truncated: bool) -> None:
    one = Begun()
    one.exchange.data_received(b"HTTP/1.1 200 OK\r\n\r\nabc")
    one.exchange.eof_received(truncated=truncated)
    assert one.sink.body == b"abc"
    assert isinstance(one.ending, ConnectionLost) is truncated


@pytest.mark.parametrize("received", [b"", HEAD, HEAD + b"abc"], ids=["no head", "head", "half a body"])
async def test_fail_closes_the_connection_and_passes_its_error_to_the_sink_once(received: bytes) -> None:
    one = Begun()
    if received:
        one.exchange.data_received(received)
    one.exchange.fail(LATE)
    one.exchange.fail(CLOSED)
    assert one.ending is LATE
    assert one.connection.released == [False]
    assert not one.owner.tasks


async def test_fail_after_the_end_changes_nothing() -> None:
    one = Begun()
    one.exchange.data_received(HEAD + b"abcdef")
    one.exchange.fail(LATE)
    assert one.ending is None
    assert one.connection.released == [True]


@pytest.mark.parametrize(
    ("at", "body"), [("head", b"abc"), ("head", b"abcdef"), ("data", b"abc"), ("data", b"abcdef"), ("eof", b"abcdef")]
)
async def test_a_sink_that_raises_gets_the_response_as_lost(at: str, body: bytes) -> None:
    class Broken(RecordingSink):
        def head(self, status: int, headers: Mapping[str, str]) -> None:
            self.fail_at("head")

        def data(self, chunk: bytes) -> None:
            self.fail_at("data")

        def eof(self) -> None:
            self.fail_at("eof")

        def fail_at(self, call: str) -> None:
            if call == at:
                raise ZeroDivisionError

    one = Begun(Broken())
    with pytest.raises(ZeroDivisionError):
        one.exchange.data_received(HEAD + body)
    assert isinstance(one.ending, ConnectionLost)
    assert one.connection.released == [body == b"abcdef"]


async def test_a_sink_that_raises_at_the_end_of_the_connection_gets_the_response_as_lost() -> None:
    class Broken(RecordingSink):
        def eof(self) -> None:
            raise ZeroDivisionError

    one = Begun(Broken())
    one.exchange.data_received(b"HTTP/1.1 200 OK\r\n\r\nabc")
    with pytest.raises(ZeroDivisionError):
        one.exchange.eof_received(truncated=False)
    assert isinstance(one.ending, ConnectionLost)


# close


async def test_close_before_the_end_releases_an_unusable_connection_once() -> None:
    one = Begun()
    one.exchange.data_received(HEAD + b"abc")
    one.exchange.close()
    one.exchange.close()
    assert one.connection.released == [False]
    assert one.ending == "open"


async def test_close_after_the_end_does_not_release_again() -> None:
    one = Begun()
    one.exchange.data_received(HEAD + b"abcdef")
    one.exchange.close()
    assert one.connection.released == [True]


@pytest.mark.parametrize(("at", "chunks"), [("head", []), ("data", [b"abcdef"])])
async def test_a_sink_that_closes_the_exchange_is_not_called_again(at: str, chunks: list[bytes]) -> None:
    class Closing(RecordingSink):
        def head(self, status: int, headers: Mapping[str, str]) -> None:
            super().head(status, headers)
            if at == "head":
                one.exchange.close()

        def data(self, chunk: bytes) -> None:
            super().data(chunk)
            one.exchange.close()

    one = Begun(Closing())
    one.exchange.data_received(HEAD + b"abcdef")
    assert one.sink.chunks == chunks
    assert one.ending == "open"


# finish


async def test_finish_discards_the_rest_and_releases_a_reusable_connection() -> None:
    one = Begun()
    one.exchange.data_received(HEAD + b"abc")
    one.exchange.pause()
    one.exchange.finish()
    assert one.connection.reading
    assert one.connection.released == []
    one.exchange.data_received(b"def")
    assert one.connection.released == [True]
    assert (one.sink.body, one.ending) == (b"abc", "open")


async def test_finish_closes_the_connection_if_the_rest_does_not_come() -> None:
    one = Begun()
    one.exchange.data_received(HEAD + b"abc")
    one.exchange.finish()
    one.exchange.finish()
    await auntil(lambda: one.connection.released == [False])
    assert one.ending == "open"


async def test_finish_after_the_end_does_not_release_again() -> None:
    one = Begun()
    one.exchange.data_received(HEAD + b"abcdef")
    one.exchange.finish()
    assert one.connection.released == [True]


async def test_a_sink_may_finish_the_exchange_from_its_callback() -> None:
    class Finishing(RecordingSink):
        def data(self, chunk: bytes) -> None:
            super().data(chunk)
            one.exchange.finish()

    one = Begun(Finishing())
    one.exchange.data_received(HEAD + b"abc")
    one.exchange.data_received(b"def")
    assert one.connection.released == [True]
    assert (one.sink.body, one.ending) == (b"abc", "open")


# last_heard


async def test_last_heard_moves_at_each_read() -> None:
    now = asyncio.get_running_loop().time()
    one = Begun()
    assert one.exchange.last_heard >= now
    for data in (b"HTTP/1.1 100 Continue\r\n\r\n", HEAD[:20], HEAD[20:], b"abc"):
        one.exchange.last_heard = 0.0
        one.exchange.data_received(data)
        assert one.exchange.last_heard >= now


async def test_last_heard_moves_when_the_request_is_written_on_a_new_connection() -> None:
    now = asyncio.get_running_loop().time()
    one = Begun()
    one.exchange.connect()
    one.exchange.last_heard = 0.0
    one.exchange.begin(FakeConnection())
    assert one.exchange.last_heard >= now
    one.owner.tasks[0].cancel()

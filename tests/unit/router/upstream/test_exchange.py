"""One exchange on a connection that records its calls: pulling, pushing, back-pressure, release, failure."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.clients.exchanges import RecordingSink
from vllama_pool.router.upstream.exchange import HIGH_WATER, UpstreamExchange
from vllama_pool.router.upstream.interface import ConnectionLost, MalformedResponse

HEAD = b"HTTP/1.1 200 OK\r\nX-Id: 7\r\nContent-Length: 6\r\n\r\n"


class Connection:
    """Records how an exchange uses its connection."""

    def __init__(self) -> None:
        self.released: list[bool] = []
        self.reading = True

    def release(self, *, reusable: bool) -> None:
        self.released.append(reusable)

    def set_reading(self, enabled: bool) -> None:
        self.reading = enabled


def exchange() -> tuple[Connection, UpstreamExchange]:
    connection = Connection()
    return connection, UpstreamExchange(connection, "POST")


def head(length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length


async def test_head_returns_when_the_response_head_is_complete() -> None:
    _, one = exchange()
    waiting = asyncio.create_task(one.head())
    await asyncio.sleep(0)
    assert not one.started
    one.data_received(HEAD[:20])
    await asyncio.sleep(0)
    assert one.started
    assert not waiting.done()
    one.data_received(HEAD[20:])
    await waiting
    assert (one.status, one.headers["x-id"]) == (200, "7")


async def test_read_returns_all_buffered_bytes_at_once_and_then_the_end() -> None:
    connection, one = exchange()
    for data in (HEAD, b"abc", b"def"):
        one.data_received(data)
    assert connection.released == [True], "released before the body is read"
    assert [await one.read(), await one.read()] == [b"abcdef", b""]


async def test_reading_pauses_above_the_high_water_mark_until_the_buffer_is_read() -> None:
    connection, one = exchange()
    one.data_received(head(2 * HIGH_WATER))
    one.data_received(bytes(HIGH_WATER))
    assert connection.reading
    one.data_received(b"x")
    assert not connection.reading
    assert len(await one.read()) == HIGH_WATER + 1
    assert connection.reading


async def test_attach_pushes_the_buffered_bytes_and_each_later_read() -> None:
    _, one = exchange()
    one.data_received(HEAD + b"abc")
    sink = RecordingSink()
    one.attach(sink)
    assert sink.chunks == [b"abc"]
    one.data_received(b"def")
    assert sink.chunks == [b"abc", b"def"]
    assert sink.ended.result() is None


async def test_the_connection_is_released_before_the_sink_gets_the_end() -> None:
    connection, one = exchange()
    released: list[list[bool]] = []

    class Ending(RecordingSink):
        def eof(self) -> None:
            released.append(list(connection.released))

    one.attach(Ending())
    one.data_received(HEAD + b"abcdef")
    assert released == [[True]]


async def test_a_paused_exchange_resumes_reading_only_on_resume() -> None:
    connection, one = exchange()
    one.data_received(HEAD)
    one.pause()
    one.attach(RecordingSink())
    one.data_received(b"abc")
    assert not connection.reading
    one.resume()
    assert connection.reading


@pytest.mark.parametrize("second", ["read", "attach"])
async def test_a_body_has_one_reader(second: str) -> None:
    _, one = exchange()
    one.data_received(HEAD)
    one.attach(RecordingSink())
    with pytest.raises(RuntimeError):
        one.attach(RecordingSink()) if second == "attach" else await one.read()


async def test_close_before_the_end_releases_an_unusable_connection_once() -> None:
    connection, one = exchange()
    one.data_received(HEAD + b"abc")
    one.close()
    one.close()
    assert connection.released == [False]
    sink = RecordingSink()
    one.attach(sink)
    assert sink.chunks == []
    assert not sink.ended.done()


async def test_close_after_the_end_does_not_release_again() -> None:
    connection, one = exchange()
    one.data_received(HEAD + b"abcdef")
    one.close()
    assert connection.released == [True]


async def test_a_sink_that_closes_the_exchange_is_not_called_again() -> None:
    _, one = exchange()

    class Closing(RecordingSink):
        def data(self, chunk: bytes) -> None:
            super().data(chunk)
            one.close()

    sink = Closing()
    one.attach(sink)
    one.data_received(HEAD + b"abcdef")
    assert sink.chunks == [b"abcdef"]
    assert not sink.ended.done()


async def test_a_failure_is_raised_after_the_bytes_before_it_and_at_every_read() -> None:
    connection, one = exchange()
    one.data_received(HEAD + b"abc")
    one.eof_received(truncated=False)
    assert connection.released == [False]
    assert await one.read() == b"abc"
    for _ in range(2):
        with pytest.raises(ConnectionLost, match="before the response was complete"):
            await one.read()


async def test_malformed_bytes_fail_the_exchange_and_release_an_unusable_connection() -> None:
    connection, one = exchange()
    one.data_received(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    with pytest.raises(MalformedResponse):
        await one.head()
    assert connection.released == [False]


@pytest.mark.parametrize("truncated", [False, True])
async def test_only_an_orderly_end_completes_a_body_without_length(truncated: bool) -> None:
    _, one = exchange()
    sink = RecordingSink()
    one.attach(sink)
    one.data_received(b"HTTP/1.1 200 OK\r\n\r\nabc")
    one.eof_received(truncated=truncated)
    assert sink.body == b"abc"
    assert isinstance(sink.ended.result(), ConnectionLost) is truncated


@pytest.mark.parametrize("method", ["head", "read"])
async def test_cancelling_a_wait_closes_the_connection(method: str) -> None:
    connection, one = exchange()
    waiting = asyncio.ensure_future(getattr(one, method)())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert connection.released == [False]

"""Writing a response: each NDJSON line as a chunk, head and body together, back-pressure, gone clients."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from tests.support.asgi import FakeClient
from vllama_pool.router.server.asgi import Scope
from vllama_pool.router.server.http_protocol import BoundedProtocol
from vllama_pool.router.server.paced_lines import LINE_GAP, joins_chunks
from vllama_pool.router.server.request_cycle import RequestCycle
from vllama_pool.router.server.writer import WRITER, ResponseWriter, SendWriter, line_chunks

NDJSON = ((b"content-type", b"application/x-ndjson"),)
TEXT = ((b"content-type", b"text/plain"), (b"content-length", b"2"))


class Transport(asyncio.Transport):
    """Keeps each write. Refuses writes once it is lost, as uvloop does."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.lost = False
        self.closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        if self.lost:
            raise RuntimeError("the handler is closed")
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.closing = True


class Exchange:
    """A request whose response the test writes itself."""

    def __init__(self, head: bytes = b"POST / HTTP/1.1\r\n") -> None:
        self.transport = Transport()
        self.scopes: list[Scope] = []
        self.released = asyncio.Event()
        config = uvicorn.Config(self._app, interface="asgi3", lifespan="off", log_config=None)
        state = ServerState()
        state.default_headers = [(b"date", b"today")]
        self.protocol = BoundedProtocol(config, state, {})
        self.protocol.connection_made(self.transport)
        self._head = head

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        self.send = send
        await self.released.wait()

    async def writer(self) -> ResponseWriter:
        """Send a request, and return the writer of its response."""
        self.protocol.data_received(self._head + b"Host: x\r\n\r\n")
        await asyncio.sleep(0)
        writer: ResponseWriter = self.scopes[-1][WRITER]
        return writer

    async def end(self) -> None:
        self.released.set()
        await asyncio.sleep(0)
        self.protocol.connection_lost(None)


@pytest.mark.parametrize(
    ("lines", "framed"),
    [
        (b"", b""),
        (b"{}\n", b"3\r\n{}\n\r\n"),
        (b"{}\n[1]\n", b"3\r\n{}\n\r\n4\r\n[1]\n\r\n"),
        (b"{}\n[1", b"3\r\n{}\n\r\n2\r\n[1\r\n"),
        (b"\n\n", b"1\r\n\n\r\n1\r\n\n\r\n"),
        (b"a" * 16, b"10\r\n" + b"a" * 16 + b"\r\n"),
    ],
)
def test_each_line_becomes_a_chunk(lines: bytes, framed: bytes) -> None:
    assert line_chunks(lines) == framed


async def test_head_and_first_lines_leave_in_one_write() -> None:
    exchange = Exchange()
    writer = await exchange.writer()
    writer.extra_headers = ((b"x-request-id", b"mine"),)
    writer.start(200, NDJSON)
    assert exchange.transport.writes == []
    assert writer.write(b"{}\n[]\n", last=False)
    (written,) = exchange.transport.writes
    assert written == (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n"
        b"date: today\r\nx-request-id: mine\r\n\r\n3\r\n{}\n\r\n3\r\n[]\n\r\n"
    )
    assert writer.write(b"1\n", last=True)
    assert exchange.transport.writes[1:] == [b"2\r\n1\n\r\n0\r\n\r\n"]
    assert not exchange.transport.closing
    await exchange.end()


async def test_a_whole_response_is_one_write_with_its_length() -> None:
    exchange = Exchange()
    writer = await exchange.writer()
    writer.start(404, TEXT)
    writer.write(b"no", last=True)
    (written,) = exchange.transport.writes
    assert written.endswith(b"content-length: 2\r\ndate: today\r\n\r\nno")
    assert b"chunked" not in written
    assert writer.status == 404
    await exchange.end()


async def test_other_content_is_not_split_into_lines() -> None:
    exchange = Exchange()
    writer = await exchange.writer()
    writer.start(200, ((b"content-type", b"text/event-stream"),))
    writer.write(b"data: 1\n\n", last=False)
    assert exchange.transport.writes[0].endswith(b"\r\n\r\n9\r\ndata: 1\n\n\r\n")
    await exchange.end()


async def test_a_connection_that_does_not_stay_open_is_closed_after_the_last_write() -> None:
    exchange = Exchange(b"POST / HTTP/1.1\r\nConnection: close\r\n")
    writer = await exchange.writer()
    writer.start(200, NDJSON)
    writer.write(b"", last=True)
    assert b"connection: close\r\n" in exchange.transport.writes[0]
    assert exchange.transport.closing
    await exchange.end()


async def test_a_client_that_is_behind_is_waited_for() -> None:
    exchange = Exchange()
    writer = await exchange.writer()
    writer.start(200, NDJSON)
    exchange.protocol.pause_writing()
    assert not writer.write(b"{}\n", last=False)
    waiting = asyncio.ensure_future(writer.drained())
    await asyncio.sleep(0)
    assert not waiting.done()
    exchange.protocol.resume_writing()
    await waiting
    assert writer.write(b"{}\n", last=True)
    await exchange.end()


@pytest.mark.parametrize("noticed", [False, True])
async def test_writing_to_a_client_that_has_gone_does_nothing(noticed: bool) -> None:
    exchange = Exchange()
    writer = await exchange.writer()
    writer.start(200, NDJSON)
    exchange.protocol.pause_writing()
    exchange.transport.lost = True
    waiting = asyncio.ensure_future(writer.drained())
    if noticed:
        exchange.protocol.connection_lost(ConnectionResetError())
        await waiting
    writer.write(b"{}\n", last=False)
    writer.write(b"{}\n", last=True)
    assert exchange.transport.writes == []
    exchange.protocol.resume_writing()
    await waiting
    await exchange.end()


async def test_the_next_request_is_served_after_a_written_response() -> None:
    exchange = Exchange()
    for number in range(3):
        writer = await exchange.writer()
        writer.start(200, NDJSON)
        writer.write(b"{}\n", last=True)
        assert len(exchange.scopes) == number + 1
    await exchange.end()


@pytest.mark.parametrize("head", [b"POST / HTTP/1.0\r\n", b"HEAD / HTTP/1.1\r\n"])
async def test_clients_without_chunks_have_no_direct_writer(head: bytes) -> None:
    exchange = Exchange(head)
    with pytest.raises(KeyError):
        await exchange.writer()
    await exchange.end()


async def test_lines_sent_by_asgi_become_chunks_of_their_own_too() -> None:
    exchange = Exchange()
    await exchange.writer()
    await exchange.send({"type": "http.response.start", "status": 200, "headers": [*NDJSON]})
    await exchange.send({"type": "http.response.body", "body": b"{}\n[]\n", "more_body": True})
    await exchange.send({"type": "http.response.body", "body": b""})
    assert exchange.transport.writes[1:] == [b"3\r\n{}\n\r\n3\r\n[]\n\r\n", b"0\r\n\r\n"]
    assert isinstance(exchange.protocol.cycle, RequestCycle)
    await exchange.end()


async def test_javascripts_fetch_gets_lines_that_come_together_one_by_one() -> None:
    exchange = Exchange(b"POST / HTTP/1.1\r\nUser-Agent: node\r\n")
    writer = await exchange.writer()
    writer.start(200, NDJSON)
    assert not writer.write(b"{}\n[]\n", last=False)
    assert not writer.write(b"1\n", last=True)
    assert len(exchange.transport.writes) == 1
    await writer.drained()
    first, *others = exchange.transport.writes
    assert first.endswith(b"\r\n\r\n3\r\n{}\n\r\n")
    assert others == [b"3\r\n[]\n\r\n", b"2\r\n1\n\r\n0\r\n\r\n"]
    assert exchange.protocol.cycle.response_complete
    await exchange.end()


async def test_javascripts_fetch_gets_a_line_at_once_after_a_pause() -> None:
    exchange = Exchange(b"POST / HTTP/1.1\r\nUser-Agent: node\r\n")
    writer = await exchange.writer()
    writer.start(200, NDJSON)
    assert writer.write(b"{}\n")
    await asyncio.sleep(2 * LINE_GAP)
    assert writer.write(b"[]\n")
    assert writer.write(b"", last=True)
    assert exchange.transport.writes[1:] == [b"3\r\n[]\n\r\n", b"0\r\n\r\n"]
    await exchange.end()


async def test_a_gone_client_ends_the_wait_between_lines() -> None:
    exchange = Exchange(b"POST / HTTP/1.1\r\nUser-Agent: node\r\n")
    writer = await exchange.writer()
    writer.start(200, NDJSON)
    assert not writer.write(b"{}\n[]\n", last=True)
    exchange.protocol.connection_lost(ConnectionResetError())
    await writer.drained()
    assert len(exchange.transport.writes) == 1
    await exchange.end()


@pytest.mark.parametrize(
    ("user_agent", "joins"),
    [(b"node", True), (b"Deno/2.1", True), (b"ollama-js/0.6.4 (x64 linux Node.js/v24)", False), (b"", False)],
)
def test_only_the_fetch_of_a_runtime_joins_chunks(user_agent: bytes, joins: bool) -> None:
    assert joins_chunks(user_agent) == joins


async def test_the_writer_over_send_sends_when_it_is_awaited() -> None:
    client = FakeClient()
    writer = SendWriter(client.send)
    writer.extra_headers = ((b"x-request-id", b"mine"),)
    writer.start(200, NDJSON)
    assert not writer.write(b"{}\n[]\n", last=False)
    await writer.drained()
    assert not writer.write(b"", last=True)
    await writer.drained()
    assert client.headers == {b"content-type": b"application/x-ndjson", b"x-request-id": b"mine"}
    assert client.body == b"{}\n[]\n"
    assert [message.get("more_body") for message in client.received] == [None, True, False]
    assert writer.status == 200


async def test_the_writer_over_send_does_not_raise_for_a_gone_client() -> None:
    async def gone(message: Any) -> None:
        raise RuntimeError("the handler is closed")

    writer = SendWriter(gone)
    writer.start(200, NDJSON)
    writer.write(b"{}\n", last=True)
    await writer.drained()

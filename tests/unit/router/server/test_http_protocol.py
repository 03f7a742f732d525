"""HTTP/1.1 parsing and its limits: bytes in, a fake transport out."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import tracemalloc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from tests.support.clients.mutated_heads import REQUESTS, mutated
from tests.support.until import auntil
from vllama_pool.router.server.arrivals import ARRIVALS, ArrivalLimits, Arrivals
from vllama_pool.router.server.http_protocol import BoundedProtocol
from vllama_pool.router.server.refusal import ON_REFUSAL, Reason, Refusal
from vllama_pool.router.server.request_reader import MAX_HEAD
from vllama_pool.router.server.writer import WRITER
from vllama_pool.router.telemetry.request_record import RECORD, RequestRecord

IDLE_SECONDS = 0.1
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = b"Connection: Upgrade, HTTP2-Settings, keep-alive\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA\r\n"


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """After the last response. What is read until `close` is dropped."""
        self.closing = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class SmallLimit(BoundedProtocol):
    max_unread = 1000


class Connection:
    """A server's end of one connection. Its app echoes the length of a body, or answers 413 without reading it."""

    def __init__(
        self,
        protocol: type[BoundedProtocol] = BoundedProtocol,
        *,
        reads_body: bool = True,
        streams: bool = False,
        idle_seconds: Any = 5,
    ) -> None:
        self.transport = FakeTransport()
        self.scopes: list[Any] = []
        self.reads_body = reads_body
        self.streams = streams
        config = uvicorn.Config(
            self._app, interface="asgi3", lifespan="off", log_config=None, timeout_keep_alive=idle_seconds
        )
        self.refusals: list[Refusal] = []
        self.arrivals = Arrivals(ArrivalLimits(head=10, body=60))
        state = {ON_REFUSAL: self.refusals.append, ARRIVALS: self.arrivals}
        self._protocol = protocol(config, ServerState(), state)
        self._protocol.connection_made(self.transport)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        size, more = 0, self.reads_body
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        body = b"read %d" % size
        status = 200 if self.reads_body else 413
        headers = [] if self.streams else [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for index in range(len(body)):
            await send({"type": "http.response.body", "body": body[index : index + 1], "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def feed(self, *parts: bytes) -> None:
        """Deliver reads until the connection closes, as an event loop does."""
        for part in parts:
            if self.transport.closing:
                return
            self._protocol.data_received(part)

    def deliver(self, data: bytes) -> None:
        """Deliver a read of a connection that is perhaps closing."""
        self._protocol.data_received(data)

    async def responses(self, count: int, status: bytes = b"200") -> bytes:
        """Wait for responses with a status, and return all bytes written."""
        lines = (b"HTTP/1.0 " + status, b"HTTP/1.1 " + status)
        await auntil(lambda: sum(map(self.transport.written.count, lines)) == count, 5, f"{count} responses")
        return self.transport.written

    def check_after(self, seconds: float) -> None:
        """Check incomplete requests as if this time had passed."""
        self.arrivals.check(asyncio.get_running_loop().time() + seconds)

    def half_close(self) -> None:
        self._protocol.eof_received()

    def close(self) -> None:
        self._protocol.connection_lost(None)


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    opened = Connection()
    yield opened
    opened.close()


@pytest.fixture
async def refusing() -> AsyncIterator[Connection]:
    opened = Connection(SmallLimit, reads_body=False)
    yield opened
    opened.close()


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\nX"])
async def test_an_endless_head_gets_431_and_the_connection_closes(connection: Connection, start: bytes) -> None:
    connection.feed(start, *[b"a" * 4096] * 100)
    assert connection.transport.written.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert connection.transport.closing
    assert connection.scopes == []


async def test_a_refused_head_takes_no_memory_beyond_the_limit(connection: Connection) -> None:
    piece = b"a" * 65_536
    connection.feed(b"GET / HTTP/1.1\r\nX: ")
    tracemalloc.start()
    try:
        for _ in range(64):
            connection.deliver(piece)
        assert connection.transport.written.startswith(b"HTTP/1.1 431")
        assert tracemalloc.get_traced_memory()[1] < 3 * MAX_HEAD
    finally:
        tracemalloc.stop()


async def test_a_head_of_many_small_headers_is_limited_too(connection: Connection) -> None:
    connection.feed(b"GET / HTTP/1.1\r\n", *(b"X-%d: %b\r\n" % (number, b"a" * 100) for number in range(1000)))
    assert b"head is too large" in connection.transport.written


async def test_a_head_up_to_the_limit_is_accepted(connection: Connection) -> None:
    start = b"GET / HTTP/1.1\r\nHost: x\r\nX: "
    connection.feed(start, b"a" * (MAX_HEAD - len(start)), b"\r\n\r\n")
    await connection.responses(1)


async def test_the_head_limit_starts_anew_with_each_request(connection: Connection) -> None:
    for number in range(1, 4):
        connection.feed(b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"a" * (MAX_HEAD // 2), b"\r\n\r\n")
        await connection.responses(number)
    assert not connection.transport.closing


async def test_a_body_does_not_count_as_head(connection: Connection) -> None:
    size = 3 * MAX_HEAD
    connection.feed(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size, *[b"b" * MAX_HEAD] * 3)
    assert b"read %d" % size in await connection.responses(1)


async def test_a_body_sent_after_its_response_is_limited(refusing: Connection) -> None:
    refusing.feed(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
    await refusing.responses(1, b"413")
    refusing.feed(b"b" * 1000)
    assert not refusing.transport.closing
    refusing.feed(b"b")
    assert refusing.transport.closing


async def test_the_connection_serves_on_after_a_small_unread_body(refusing: Connection) -> None:
    for number in range(1, 4):
        refusing.feed(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 600\r\n\r\n")
        await refusing.responses(number, b"413")
        refusing.feed(b"b" * 599, b"b")
    assert not refusing.transport.closing


@pytest.mark.parametrize("cut", range(0, 180, 20))
async def test_an_upgrade_offer_is_ignored_wherever_the_read_ends(connection: Connection, cut: int) -> None:
    request = b"POST /a?b=c HTTP/1.1\r\nHost: x\r\n%bContent-Length: 5\r\n\r\nhello" % UPGRADE
    connection.feed(request[:cut], request[cut:])
    assert b"read 5" in await connection.responses(1)
    (scope,) = connection.scopes
    assert (scope["method"], scope["path"], scope["query_string"]) == ("POST", "/a", b"b=c")
    assert scope["headers"] == [(b"host", b"x"), (b"connection", b"keep-alive"), (b"content-length", b"5")]


async def test_a_connection_header_that_only_offers_an_upgrade_is_dropped(connection: Connection) -> None:
    connection.feed(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    await connection.responses(1)
    assert connection.scopes[0]["headers"] == [(b"host", b"x")]


async def test_pipelined_requests_with_upgrade_offers_are_answered_one_by_one(connection: Connection) -> None:
    offer = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    connection.feed(offer * 20 + GET)
    await connection.responses(21)


async def test_close_beside_an_upgrade_offer_still_closes_the_connection(connection: Connection) -> None:
    connection.feed(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n")
    await connection.responses(1)
    assert connection.transport.closing


async def test_bytes_after_a_request_with_connection_close_do_not_cost_its_response(connection: Connection) -> None:
    connection.feed(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + GET)
    assert (await connection.responses(1)).startswith(b"HTTP/1.1 200")
    assert connection.transport.closing


async def test_connect_reaches_the_app_without_a_path_and_closes(connection: Connection) -> None:
    connection.feed(b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
    await connection.responses(1)
    (scope,) = connection.scopes
    assert (scope["method"], scope["path"]) == ("CONNECT", "")
    assert connection.transport.closing


@pytest.mark.parametrize("head", [b"GET / HTTP/1.0\n\n", b"GET / HTTP/1.1\nHost: x\n\n", b"\r\n\n" + GET])
async def test_lone_lf_and_blank_lines_before_a_head_are_accepted(connection: Connection, head: bytes) -> None:
    connection.feed(*(head[index : index + 1] for index in range(len(head))))
    await connection.responses(1)


async def test_endless_blank_lines_are_limited(connection: Connection) -> None:
    connection.feed(*[b"\r\n" * 1000] * 40)
    assert connection.transport.written.startswith(b"HTTP/1.1 431")


async def test_unknown_methods_reach_the_app(connection: Connection) -> None:
    for method in (b"FOO", b"get", b"M-SEARCH"):
        connection.feed(method + b" /a HTTP/1.1\r\nHost: x\r\n\r\n")
    await connection.responses(3)
    assert [scope["method"] for scope in connection.scopes] == ["FOO", "get", "M-SEARCH"]


async def test_pipelined_requests_of_every_framing_end_where_they_end(connection: Connection) -> None:
    chunked = b"POST /c HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n3\r\nabc\r\n0\r\n\r\n"
    sized = b"POST /s HTTP/1.1\nHost: x\nContent-Length: 4\n\nGET "
    stream = (chunked + sized + b"GET /g HTTP/1.1\nHost: x\n\n") * 5
    connection.feed(*(stream[index : index + 50] for index in range(0, len(stream), 50)))
    written = await connection.responses(15)
    assert [scope["path"] for scope in connection.scopes] == ["/c", "/s", "/g"] * 5
    assert (written.count(b"read 3"), written.count(b"read 4"), written.count(b"read 0")) == (5, 5, 5)


async def test_trailers_do_not_become_headers(connection: Connection) -> None:
    chunked = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Api-Key: k\r\n\r\n"
    connection.feed(chunked)
    await connection.responses(1)
    assert b"x-api-key" not in dict(connection.scopes[0]["headers"])


@pytest.mark.parametrize(
    "body",
    [
        b"3\nabc\r\n0\r\n\r\n",
        b"3;x\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"0\r\nX: y\n\n",
        b"0\r\nContent-Length: 50\r\n\r\n",
        b"0\r\nX : y\r\n\r\n",
    ],
)
async def test_after_an_invalid_chunked_body_nothing_is_read(connection: Connection, body: bytes) -> None:
    connection.feed(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body + GET)
    assert connection.transport.written.startswith(b"HTTP/1.1 400")
    assert connection.transport.closing
    assert len(connection.scopes) == 0


@pytest.mark.parametrize("header", [b"Transfer-Encoding : chunked", b"Content-Length\t: 5", b"X: a\0b", b": x", b"x"])
async def test_a_header_line_that_go_refuses_is_refused(connection: Connection, header: bytes) -> None:
    connection.feed(b"POST / HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n\r\n" + GET)
    assert connection.transport.written.startswith(b"HTTP/1.1 400")
    assert connection.scopes == []


async def test_an_invalid_request_is_refused_after_the_responses_to_earlier_ones(connection: Connection) -> None:
    connection.feed(GET + GET + b"nonsense\r\n\r\n" + GET)
    written = await connection.responses(1, b"400")
    assert written.count(b"HTTP/1.1 200") == 2
    assert written.rindex(b"HTTP/1.1 200") < written.index(b"HTTP/1.1 400")
    assert connection.transport.closing


async def test_a_pipelined_request_with_an_invalid_body_does_not_reach_the_app(connection: Connection) -> None:
    connection.feed(GET + b"POST /bad HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n" + GET)
    written = await connection.responses(1, b"400")
    assert written.startswith(b"HTTP/1.1 200")
    assert [scope["path"] for scope in connection.scopes] == ["/"]


async def test_an_invalid_request_is_not_logged(connection: Connection, caplog: pytest.LogCaptureFixture) -> None:
    connection.feed(b"nonsense\r\n\r\n")
    assert connection.transport.closing
    assert caplog.records == []


async def test_an_http_1_0_response_without_length_is_not_chunked() -> None:
    connection = Connection(streams=True)
    connection.feed(b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi")
    await auntil(lambda: connection.transport.closing, 5, "the end of the response")
    head, _, body = connection.transport.written.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body == b"read 2"
    connection.close()


async def test_an_http_1_0_connection_is_kept_if_asked_for_and_the_response_has_a_length(
    connection: Connection,
) -> None:
    keep = b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"
    connection.feed(keep)
    assert b"connection: keep-alive\r\n" in await connection.responses(1)
    connection.feed(keep)
    await connection.responses(2)
    assert not connection.transport.closing
    connection.feed(b"GET / HTTP/1.0\r\n\r\n")
    await connection.responses(3)
    assert connection.transport.closing


async def test_an_http_1_0_client_gets_no_100_continue(connection: Connection) -> None:
    connection.feed(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi")
    assert b" 100 " not in await connection.responses(1)


def as_read(scopes: list[Any]) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in scope.items() if not key.startswith(("vllama.", "state"))} for scope in scopes
    ]


async def compare_reads(requests: bytes) -> None:
    """Check that nothing changes if the first bytes of a request arrive alone: they prevent the quick reading."""
    whole, cut = Connection(), Connection()
    for connection, reads in ((whole, [requests]), (cut, [requests[:3], requests[3:]])):
        connection.feed(*reads)
        for _ in range(100):
            await asyncio.sleep(0)
    assert as_read(whole.scopes) == as_read(cut.scopes)
    assert whole.transport.written == cut.transport.written
    assert [refusal.text for refusal in whole.refusals] == [refusal.text for refusal in cut.refusals]
    assert whole.transport.closing == cut.transport.closing
    whole.close()
    cut.close()


async def test_a_request_is_read_in_the_same_way_quickly_and_in_full() -> None:
    rng = random.Random(5)
    for request in REQUESTS:
        await compare_reads(request)
    for _ in range(1500):
        await compare_reads(mutated(rng))


@pytest.mark.parametrize("cut", [76, 77, 81, 85])
async def test_a_body_may_follow_its_head_in_any_number_of_reads(connection: Connection, cut: int) -> None:
    head = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nUser-Agent: curl/8\r\nContent-Length: 10\r\n\r\n"
    request = head + b"0123456789"
    assert len(head) == 76
    for number in range(1, 4):
        connection.feed(request[:cut], request[cut:])
        assert (await connection.responses(number)).count(b"read 10") == number
    connection.feed(request[:cut], request[cut:] + request + GET)
    await connection.responses(6)
    assert [scope["path"] for scope in connection.scopes] == ["/api/chat"] * 5 + ["/"]


async def test_the_idle_time_begins_with_the_latest_response() -> None:
    connection = Connection(idle_seconds=IDLE_SECONDS)
    loop = asyncio.get_running_loop()
    for number in range(1, 5):
        asked = loop.time()
        connection.feed(GET)
        await connection.responses(number)
        await asyncio.sleep(IDLE_SECONDS / 3)
        if connection.transport.closing:  # this machine is slow
            break
    await auntil(lambda: connection.transport.closing, 5, "the connection to close")
    assert loop.time() >= asked + IDLE_SECONDS
    connection.close()


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"\x16\x03\x01\r\n\r\n", "the request line is invalid"),
        (b"GET / HTTP/3.0\r\n\r\n", "the HTTP version is not supported"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * MAX_HEAD + b"\r\n\r\n", "head is too large"),
        (b"GET / HTTP/1.1\r\nX\r\n\r\n", "the HTTP request is invalid"),
        (CHUNKED + b"-1\r\n", "a chunk size is invalid"),
    ],
)
async def test_a_malformed_request_is_reported_once_with_its_cure(
    connection: Connection, sent: bytes, text: str
) -> None:
    connection.feed(sent, sent, sent)
    (refusal,) = connection.refusals
    assert refusal.reason == Reason.MALFORMED
    assert refusal.text.startswith("a request from ")
    assert text in refusal.text
    assert "; send " in refusal.text


async def test_what_a_client_sends_does_not_get_into_the_text(connection: Connection) -> None:
    connection.feed(b"GET / HTTP/1.1\r\nHost: x\r\nHost: \x1b[31mevil\r\n\r\n")
    (refusal,) = connection.refusals
    assert "evil" not in refusal.text
    assert refusal.text.isprintable()


async def test_requests_that_are_served_are_not_reported(connection: Connection) -> None:
    connection.feed(GET)
    await connection.responses(1)
    connection.close()
    assert connection.refusals == []


async def test_an_idle_connection_takes_little_memory() -> None:
    """A parser takes 900 bytes, an event 800, and a dict of attributes whose keys Python does not share 1,500."""
    count = 40
    config, state = uvicorn.Config(answer_nothing, interface="asgi3", lifespan="off", log_config=None), ServerState()

    def served() -> BoundedProtocol:
        protocol = BoundedProtocol(config, state, {})
        protocol.connection_made(FakeTransport())
        protocol.data_received(GET)
        return protocol

    opened = [served() for _ in range(2)]
    tracemalloc.start()
    try:
        opened += [served() for _ in range(count)]
        await auntil(lambda: not state.tasks)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] / count < 4000
    finally:
        tracemalloc.stop()
        for protocol in opened:
            protocol.connection_lost(None)


async def answer_nothing(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("request_", [GET, CHUNKED + b"0\r\n\r\n"], ids=["read by the router", "read by httptools"])
async def test_a_lost_connection_and_its_requests_leave_no_garbage(request_: bytes) -> None:
    gc.disable()
    try:
        connection = Connection()
        connection.feed(request_)
        await connection.responses(1)
        protocol, cycle = weakref.ref(connection._protocol), weakref.ref(connection._protocol.cycle)
        connection.close()
        del connection._protocol, connection.scopes
        await asyncio.sleep(0)
        assert (protocol(), cycle()) == (None, None)
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"error": "unexpected EOF"}),
        (
            "/v1/responses",
            {"error": {"message": "unexpected EOF", "type": "invalid_request_error", "param": None, "code": None}},
        ),
        (
            "/v1/messages",
            {
                "type": "error",
                "error": {"type": "invalid_request_error", "message": "unexpected EOF"},
                "request_id": "req_a1",
            },
        ),
    ],
)
async def test_a_half_close_within_a_body_gets_a_400_of_the_paths_api_with_the_responses_headers(
    connection: Connection, path: str, body: object
) -> None:
    connection.feed(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc" % path.encode())
    await auntil(lambda: bool(connection.scopes), 5, "the request")
    (scope,) = connection.scopes
    scope[RECORD] = RequestRecord(id="a1")
    scope[WRITER].extra_headers = ((b"x-request-id", b"a1"),)
    connection.half_close()
    head, _, sent = connection.transport.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nx-request-id: a1\r\n" in head
    assert b"\r\ncontent-length: %d\r\n" % len(sent) in head
    assert json.loads(sent) == body

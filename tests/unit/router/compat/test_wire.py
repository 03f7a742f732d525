"""Answers as they came: heads, bodies and chunks, from servers that cut and break them."""

import socket

import pytest

from tests.support.raw_server import RawServer, bytewise, cut, request
from vllama_pool.router.compat.wire import BadAnswer, Connection, Place, Reply, place, reason

OK = b"HTTP/1.1 200 OK\r\n"


async def ask(server: RawServer, method: str = "GET", body: bytes = b"") -> Reply:
    at = Place(server.endpoint.host, server.endpoint.port)
    async with Connection(at) as connection:
        return await connection.exchange(method, "/x", {"Host": "h"}, body)


async def test_chunks_are_kept_apart_however_they_arrive() -> None:
    head = OK + b"Transfer-Encoding: chunked\r\nX-Two: a\r\nX-Two: b\r\n\r\n"
    answer = head + b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"
    for step in (answer, bytewise(answer)):
        async with RawServer([request, step]) as server:
            reply = await ask(server)
        assert reply.chunks == (b"one", b"three")
        assert reply.body == b"onethree"
        assert [value for name, value in reply.headers if name == "x-two"] == ["a", "b"]
        assert reply.header("x-two") == "a"


async def test_whole_bodies_have_no_chunks() -> None:
    async with RawServer([request, OK + b"Content-Length: 2\r\n\r\nok"]) as server:
        reply = await ask(server, "POST", b"{}")
    assert (reply.status, reply.body, reply.chunks) == (200, b"ok", None)
    assert server.requests[0].line == "POST /x HTTP/1.1"
    assert server.requests[0].headers["content-length"] == "2"
    assert server.requests[0].body == b"{}"


async def test_an_answer_to_head_ends_with_its_head() -> None:
    async with RawServer([request, OK + b"Content-Length: 17\r\n\r\n"]) as server:
        reply = await ask(server, "HEAD")
    assert reply.body == b""
    assert reply.header("content-length") == "17"


async def test_a_body_without_a_length_ends_with_the_connection() -> None:
    async with RawServer([request, OK + b"\r\nall of it"]) as server:
        assert (await ask(server)).body == b"all of it"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        OK,
        OK + b"Content-Length: 9\r\n\r\nhalf",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"SSH-2.0-x\r\n",
    ],
)
async def test_half_an_answer_is_none(sent: bytes) -> None:
    async with RawServer([request, sent, cut] if not sent else [request, sent]) as server:
        with pytest.raises((BadAnswer, ConnectionError)):
            await ask(server)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h:1", Place("h", 1)),
        ("http://h", Place("h", 80)),
        ("https://h/ollama/", Place("h", 443, tls=True, prefix="/ollama")),
        ("h", Place("h", 11434)),
        ("127.0.0.1:8080", Place("127.0.0.1", 8080)),
        ("http://[::1]:11434", Place("::1", 11434)),
    ],
)
def test_places_of_urls(url: str, expected: Place) -> None:
    assert place(url) == expected


@pytest.mark.parametrize(
    "url", ["", "ftp://h", "http://", "http://h:x", "unix:///tmp/x", "h:99999", "http://[::1", "::1", "not a host"]
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ValueError, match="is no URL of a server; say http://HOST:PORT") as raised:
        place(url)
    assert repr(url) in str(raised.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"), "Connection refused"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), [Errno 111] …"), "Connection"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (ConnectionResetError(), "ConnectionResetError"),
    ],
)
def test_why_there_is_no_connection_is_told_in_few_words(error: OSError, said: str) -> None:
    assert reason(error).startswith(said)
    assert "Errno" not in reason(error)


def test_hosts_as_headers_have_them() -> None:
    assert [Place("h", 80).authority, Place("h", 443, tls=True).authority, Place("h", 443).authority] == [
        "h",
        "h",
        "h:443",
    ]
    assert Place("::1", 11434).authority == "[::1]:11434"

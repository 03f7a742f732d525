"""The HTTP client of the checks: chunks, incomplete responses and URLs."""

import socket

import pytest

from tests.support.vllm.scripted_server import ScriptedServer, bytewise, cut, request
from vllama_pool.router.compat.wire import InvalidResponse, RawConnection, RawResponse, ServerUrl, parse_url, reason

OK = b"HTTP/1.1 200 OK\r\n"


async def exchange(server: ScriptedServer, method: str = "GET", body: bytes = b"") -> RawResponse:
    at = ServerUrl(server.endpoint.host, server.endpoint.port)
    async with RawConnection(at) as connection:
        return await connection.exchange(method, "/x", {"Host": "h"}, body)


async def test_chunk_boundaries_are_kept_however_the_bytes_arrive() -> None:
    head = OK + b"Transfer-Encoding: chunked\r\nX-Two: a\r\nX-Two: b\r\n\r\n"
    answer = head + b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"
    for step in (answer, bytewise(answer)):
        async with ScriptedServer([request, step]) as server:
            response = await exchange(server)
        assert response.chunks == (b"one", b"three")
        assert response.body == b"onethree"
        assert [value for name, value in response.headers if name == "x-two"] == ["a", "b"]
        assert response.header("x-two") == "a"


async def test_a_body_with_a_length_has_no_chunks() -> None:
    async with ScriptedServer([request, OK + b"Content-Length: 2\r\n\r\nok"]) as server:
        response = await exchange(server, "POST", b"{}")
    assert (response.status, response.body, response.chunks) == (200, b"ok", None)
    assert server.requests[0].line == "POST /x HTTP/1.1"
    assert server.requests[0].headers["content-length"] == "2"
    assert server.requests[0].body == b"{}"


async def test_an_http_1_0_connection_is_kept_if_the_response_says_so() -> None:
    response = b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n"
    async with (
        ScriptedServer([request, response + b"a" + response + b"b"]) as server,
        RawConnection(ServerUrl(server.endpoint.host, server.endpoint.port)) as connection,
    ):
        await connection.write(b"GET / HTTP/1.0\r\n\r\n")
        assert [(await connection.read_response("GET")).body for _ in range(2)] == [b"a", b"b"]


async def test_a_response_to_head_has_no_body() -> None:
    async with ScriptedServer([request, OK + b"Content-Length: 17\r\n\r\n"]) as server:
        response = await exchange(server, "HEAD")
    assert response.body == b""
    assert response.header("content-length") == "17"


async def test_a_body_without_a_length_ends_with_the_connection() -> None:
    async with ScriptedServer([request, OK + b"\r\nall of it"]) as server:
        assert (await exchange(server)).body == b"all of it"


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
async def test_an_incomplete_response_is_invalid(sent: bytes) -> None:
    async with ScriptedServer([request, sent, cut] if not sent else [request, sent]) as server:
        with pytest.raises((InvalidResponse, ConnectionError)):
            await exchange(server)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h:1", ServerUrl("h", 1)),
        ("http://h", ServerUrl("h", 80)),
        ("https://h/ollama/", ServerUrl("h", 443, tls=True, prefix="/ollama")),
        ("h", ServerUrl("h", 11434)),
        ("127.0.0.1:8080", ServerUrl("127.0.0.1", 8080)),
        ("http://[::1]:11434", ServerUrl("::1", 11434)),
    ],
)
def test_urls_are_parsed(url: str, expected: ServerUrl) -> None:
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    "url", ["", "ftp://h", "http://", "http://h:x", "unix:///tmp/x", "h:99999", "http://[::1", "::1", "not a host"]
)
def test_invalid_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not the URL of a server; use http://HOST:PORT") as raised:
        parse_url(url)
    assert repr(url) in str(raised.value)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"), "Connection refused"),
        (
            OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), [Errno 111] …"),
            "Connection refused",
        ),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (ConnectionResetError(), "ConnectionResetError"),
    ],
)
def test_connection_errors_are_described_without_addresses(error: OSError, text: str) -> None:
    assert reason(error).startswith(text)
    assert "Errno" not in reason(error)


def test_the_authority_omits_the_default_port() -> None:
    assert [ServerUrl("h", 80).authority, ServerUrl("h", 443, tls=True).authority, ServerUrl("h", 443).authority] == [
        "h",
        "h",
        "h:443",
    ]
    assert ServerUrl("::1", 11434).authority == "[::1]:11434"

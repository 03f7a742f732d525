"""HTTP/1.1 bytes: request heads, and parsing of responses."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.upstream.http1 import MAX_HEAD, MAX_HEADERS, RequestHeads, ResponseParser, UsualHeads
from vllama_pool.router.upstream.interface import Endpoint

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def length(size: int) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n" % size


def parse(*parts: bytes, method: str = "GET") -> tuple[ResponseParser, bytes]:
    parser = ResponseParser(method)
    return parser, b"".join([parser.feed(part) for part in parts])


WHOLE = {
    "content-length": (length(7) + b"a\r\n\r\nbc", b"a\r\n\r\nbc"),
    "chunked": (CHUNKED + b"3\r\nabc\r\n10;x=y\r\n0123456789abcdef\r\n0\r\n\r\n", b"abc0123456789abcdef"),
    "trailers": (CHUNKED + b"1\r\na\r\n0\r\nDigest: x\r\nB: c\r\n\r\n", b"a"),
    "1xx": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + length(2) + b"ab",
        b"ab",
    ),
    "empty": (length(0), b""),
    "204": (b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", b""),
    "304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b""),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\na", b"a"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_complete_response_is_parsed_the_same_however_it_is_split(name: str) -> None:
    data, body = WHOLE[name]
    in_two = [[data[:i], data[i:]] for i in range(1, len(data))]
    for parts in [[data], *in_two, [data[i : i + 1] for i in range(len(data))]]:
        parser, got = parse(*parts)
        assert (got, parser.complete, parser.error, parser.extra) == (body, True, None, False), parts
        assert parser.keep_alive
        assert parser.status in (200, 204, 304)
        assert "link" not in parser.headers
        assert "digest" not in parser.headers


def test_the_chunks_of_one_read_are_joined() -> None:
    parser = ResponseParser("GET")
    assert parser.feed(CHUNKED + b"1\r\na\r\n1\r\nb\r\n1\r\n") == b"ab"
    assert parser.feed(b"c\r\n1\r\nd\r\n") == b"cd"


def test_header_names_are_lower_case_and_repeated_headers_joined() -> None:
    parser, _ = parse(OK + b"X-A: 1\r\nVia: \xe9\r\nx-a: 2\r\nContent-Length: 0\r\n\r\n")
    assert parser.headers == {"x-a": "1, 2", "via": "\xe9", "content-length": "0"}


LINES = st.sampled_from(
    [
        *(
            b"date: Fri, 27 Nov 2026 13:00:00 GMT",
            b"server: uvicorn",
            b"Content-Type: text/event-stream",
            b"A: ",
            b"a: b",
        ),
        *(
            b"transfer-encoding: chunked",
            b"Transfer-Encoding: Chunked",
            b"transfer-encoding: gzip, chunked",
            b"via: \xe9",
        ),
        *(b"content-length: 3", b"Content-Length:3", b"content-length: 0", b"content-length: -1", b"content-length: "),
        *(
            b"connection: close",
            b"x: transfer-encoding: chunked",
            b"transfer-encoding : chunked",
            b" folded",
            b"x: a\rb",
        ),
        *(b"x: a\nb: c", b"transfer-encoding:chunked", b"no colon", b"trailer: content-length: 3"),
    ]
)
STATUS_LINES = st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 404 Not Found", b"HTTP/1.1 200 "])


@given(
    status=STATUS_LINES,
    lines=st.lists(LINES, max_size=6),
    body=st.sampled_from([b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n"]),
)
def test_a_head_in_one_read_is_judged_as_one_in_two(status: bytes, lines: list[bytes], body: bytes) -> None:
    """A whole usual head takes a shorter way, which a head in two reads never does."""
    data = b"".join(line + b"\r\n" for line in [status, *lines, b""]) + body

    def outcome(*parts: bytes) -> tuple[object, ...]:
        parser, got = parse(*parts)
        return (
            *(
                parser.status,
                parser.status and dict(parser.headers),
                got,
                parser.complete,
                parser.keep_alive,
                parser.extra,
            ),
            *(type(parser.error), parser.eof()),
        )

    assert outcome(data) == outcome(data[:9], data[9:])


USUAL_HEADS = UsualHeads()


@given(
    status=st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.1 200 "]),
    lines=st.lists(st.sampled_from([b"a: b", b"transfer-encoding: chunked", b"content-length: 3"]), max_size=3),
    body=st.sampled_from([b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"\r\n"]),
)
def test_a_head_like_an_earlier_one_is_judged_as_if_it_were_the_first(
    status: bytes, lines: list[bytes], body: bytes
) -> None:
    data = b"".join(line + b"\r\n" for line in [status, *lines, b""]) + body
    outcomes = []
    for heads in (USUAL_HEADS, UsualHeads()):
        parser = ResponseParser("POST", heads)
        got = parser.feed(data)
        outcomes.append((parser.status, dict(parser.headers), got, parser.complete, parser.extra, type(parser.error)))
    assert outcomes[0] == outcomes[1]


def test_a_body_without_length_ends_with_the_connection() -> None:
    for parts in [(OK + b"\r\nabc",), tuple((OK + b"\r\nabc")[i : i + 1] for i in range(len(OK) + 5))]:
        parser, body = parse(*parts)
        assert (body, parser.complete, parser.keep_alive) == (b"abc", False, False)
        assert parser.eof()
        assert parser.complete


@pytest.mark.parametrize(
    "cut", [OK, length(3) + b"ab", CHUNKED + b"3\r\nabc\r\n", CHUNKED + b"0\r\n", OK + b"A: b\r\n", b""]
)
def test_a_connection_that_ends_early_does_not_complete_the_response(cut: bytes) -> None:
    parser, _ = parse(cut)
    assert not parser.eof()
    assert not parser.complete


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive, Close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", True),
        (b"HTTP/1.1 200 OK\r\n", True),
    ],
)
def test_keep_alive_follows_http_version_and_connection_header(head: bytes, kept: bool) -> None:
    parser, body = parse(head + b"Content-Length: 2\r\n\r\nab")
    assert (parser.keep_alive, parser.complete, body) == (kept, True, b"ab")


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 9", b"Content-Length: 0", b"Transfer-Encoding: chunked", b"A: b"]
)
def test_a_response_to_head_has_no_body(framing: bytes) -> None:
    parser, body = parse(OK + framing + b"\r\n\r\n", method="HEAD")
    assert (parser.complete, body, parser.extra) == (True, b"", False)


EXTRA = {
    "content-length": length(2) + b"ab",
    "chunked": CHUNKED + b"2\r\nab\r\n0\r\n\r\n",
    "closing": OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nab",
}


@pytest.mark.parametrize("more", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nc", b"\0"])
@pytest.mark.parametrize("whole", EXTRA)
def test_bytes_after_the_end_are_flagged_and_not_part_of_the_body(whole: str, more: bytes) -> None:
    for parts in [(EXTRA[whole] + more,), (EXTRA[whole], more)]:
        parser, body = parse(*parts)
        assert (body, parser.complete, parser.extra, parser.error) == (b"ab", True, True, None)


def test_a_body_after_a_response_to_head_is_flagged() -> None:
    parser, body = parse(length(2) + b"ab", method="HEAD")
    assert (body, parser.extra) == (b"", True)


MALFORMED = {
    "no http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "tls": b"\x15\x03\x01\x00\x02\x02\x46",
    "http 0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
    "http 2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status 99": b"HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n",
    "status 1000": b"HTTP/1.1 1000 X\r\nContent-Length: 0\r\n\r\n",
    "upgrade": b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\nxx",
    "two lengths": OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "length twice": OK + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "length list": OK + b"Content-Length: 3, 3\r\n\r\nabc",
    "length +": OK + b"Content-Length: +3\r\n\r\nabc",
    "length -": OK + b"Content-Length: -3\r\n\r\nabc",
    "length hex": OK + b"Content-Length: 0x3\r\n\r\nabc",
    "length empty": OK + b"Content-Length: \r\n\r\nabc",
    "length too large": OK + b"Content-Length: 99999999999999999999\r\n\r\nabc",
    "length and chunked": OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "gzip, chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "identity": OK + b"Transfer-Encoding: identity\r\n\r\nabc",
    "chunked 1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "no colon": OK + b"Content-Length 3\r\n\r\nabc",
    "space before colon": OK + b"Content-Length : 3\r\n\r\nabc",
    "folded header": OK + b"A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "bare LF before a second length": OK + b"A: b\nContent-Length: 9\r\nContent-Length: 0\r\n\r\n",
    "bare LF before an encoding": OK + b"A: b\nTransfer-Encoding: gzip\r\nContent-Length: 0\r\n\r\n",
    "NUL in a header": OK + b"A: b\0c\r\nContent-Length: 0\r\n\r\n",
    "too many headers": OK + b"".join(b"A%d: b\r\n" % i for i in range(MAX_HEADERS + 1)) + b"\r\n",
    "head too large": OK + b"A: " + b"b" * MAX_HEAD + b"\r\n\r\n",
    "head without end": OK + b"A: " + b"b" * (MAX_HEAD + 1),
    "1xx without end": b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_HEAD // 25 + 1),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_response_is_rejected_however_it_is_split(name: str) -> None:
    data = MALFORMED[name]
    step = max(1, len(data) // 200)
    for parts in [(data,), tuple(data[i : i + step] for i in range(0, len(data), step))]:
        parser, body = parse(*parts)
        assert parser.error is not None
        assert (parser.status, parser.complete, body) == (0, False, b"")


@pytest.mark.parametrize(
    "tail",
    [b"ZZ\r\n", b"3 \r\nabc\r\n", b"3\r\nabcd\r\n", b"fffffffffffffffff\r\n", b"-1\r\n", b"\r\n", b"0x3\r\nabc\r\n"],
)
def test_a_malformed_chunk_keeps_the_body_before_it(tail: bytes) -> None:
    data = CHUNKED + b"2\r\nab\r\n" + tail
    for parts in [(data,), tuple(data[i : i + 1] for i in range(len(data)))]:
        parser, body = parse(*parts)
        assert parser.error is not None
        assert not parser.complete
        assert body.startswith(b"ab")
        assert len(body) <= 5


@pytest.mark.parametrize("filler", [b"1;" + b"x" * MAX_HEAD, b"0\r\n" + b"A: b\r\n" * (MAX_HEAD // 6 + 1)])
def test_framing_without_body_is_limited(filler: bytes) -> None:
    parser, _ = parse(CHUNKED, *(filler[i : i + 999] for i in range(0, len(filler), 999)))
    assert parser.error is not None


def test_a_long_stream_of_small_chunks_is_accepted() -> None:
    parser, body = parse(CHUNKED, *([b"1\r\n", b"a\r\n"] * MAX_HEAD))
    assert len(body) == MAX_HEAD
    assert parser.error is None


LOCAL = Endpoint("worker", 8100)


def head(
    endpoint: Endpoint = LOCAL,
    method: str = "POST",
    path: str = "/v1",
    size: int = 0,
    request_id: str = "7",
    **headers: str,
) -> str:
    heads = RequestHeads()
    made = [heads.get(endpoint, method, path, tuple(headers.items()), request_id, size) for _ in range(2)]
    assert made[0] == made[1]
    return made[0].decode("latin-1")


def test_a_request_head_has_host_authorization_headers_id_and_length() -> None:
    assert head(Endpoint("worker", 8100, "/a", None, "Bearer k"), size=3, accept="x/y") == (
        "POST /a/v1 HTTP/1.1\r\nHost: worker:8100\r\nAuthorization: Bearer k\r\n"
        "accept: x/y\r\nx-request-id: 7\r\nContent-Length: 3\r\n\r\n"
    )


def test_heads_of_different_kinds_are_not_confused() -> None:
    heads = RequestHeads()
    made = {
        heads.get(endpoint, method, path, headers, request_id, size)
        for endpoint in (LOCAL, Endpoint("worker", 8100, authorization="Bearer k"))
        for method in ("GET", "POST")
        for path in ("/v1", "/v2")
        for headers in ((), (("accept", "x/y"),))
        for request_id in ("one", "2")
        for size in (3, 0)
    }
    assert len(made) == 64


@pytest.mark.parametrize(
    ("host", "port", "sent"), [("::1", 8100, "[::1]:8100"), ("fe80::1%eth0", 1, "[fe80::1]:1"), ("h", 80, "h")]
)
def test_the_host_header_brackets_ipv6_and_omits_the_default_port(host: str, port: int, sent: str) -> None:
    assert f"\r\nHost: {sent}\r\n" in head(Endpoint(host, port))


@pytest.mark.parametrize("bad", ["\r", "\n", "\r\nX: y", "\0", "\x7f", "\x1b", "\u20ac"])
def test_control_characters_in_a_request_head_are_rejected(bad: str) -> None:
    for attempt in (
        lambda: head(path="/a" + bad),
        lambda: head(method="GET" + bad),
        lambda: head(accept="a" + bad),
        lambda: head(**{"x" + bad: "a"}),
        lambda: head(Endpoint("worker" + bad, 1)),
        lambda: head(Endpoint("worker", 1, "/p" + bad)),
        lambda: head(Endpoint("worker", 1, "", None, "Bearer " + bad)),
    ):
        with pytest.raises(ValueError, match=r".+"):
            attempt()


@pytest.mark.parametrize("bad", ["\r", "\n", "a\r\nX: y", "\0", "\x7f", "\u20ac", "\xe9"])
def test_a_request_id_with_other_than_printable_ascii_is_rejected(bad: str) -> None:
    with pytest.raises(ValueError, match="request id"):
        head(request_id=bad)


@pytest.mark.parametrize("path", ["", "v1", "/a b", "http://x/"])
def test_an_invalid_request_path_is_rejected(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        head(path=path)


@pytest.mark.parametrize(
    "name", ["Host", "content-length", "Transfer-Encoding", "Connection", "Authorization", "", "a b", "a:"]
)
def test_reserved_and_invalid_header_names_are_rejected(name: str) -> None:
    with pytest.raises(ValueError, match="header"):
        head(**{name: "x"})


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nno",
    ],
)
def test_a_stopped_parser_is_not_left_to_the_cycle_collector(data: bytes) -> None:
    gc.collect()
    gc.disable()
    try:
        parser = ResponseParser("POST")
        parser.feed(data)
        assert parser.headers is not None
        parser.stop()
        del parser
        assert not [thing for thing in gc.get_objects() if isinstance(thing, ResponseParser)]
    finally:
        gc.enable()

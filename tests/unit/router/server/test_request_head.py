"""Request heads as Go reads them, and refusal of heads that two parsers could read in two ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.router.server.request_head import InvalidHead, parse_head

HEAD = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"


def lines(*headers: bytes, start: bytes = b"POST / HTTP/1.1") -> bytes:
    return b"\r\n".join([start, *headers, b"", b""])


def test_a_strict_head_is_unchanged() -> None:
    head = parse_head(HEAD)
    assert (head.method, head.strict, head.length, head.path) == ("POST", HEAD, 5, None)


@pytest.mark.parametrize("ends", range(1, 16))
def test_every_mixture_of_lf_and_crlf_means_the_same(ends: int) -> None:
    parts = HEAD.split(b"\r\n")[:-1]
    mixed = b"".join(part + (b"\n" if ends >> index & 1 else b"\r\n") for index, part in enumerate(parts))
    assert parse_head(mixed) == parse_head(HEAD)


@pytest.mark.parametrize("fold", [b"\r\n ", b"\n\t", b" \r\n  ", b"\r\n \r\n  "])
def test_a_folded_header_is_joined_with_one_space(fold: bytes) -> None:
    strict = parse_head(lines(b"Host: x", b"X: a" + fold + b"b", b"Y: c")).strict
    assert b"\r\nX: a b\r\n" in strict.replace(b"a  b", b"a b")
    assert strict.endswith(b"\r\nY: c\r\n\r\n")


@pytest.mark.parametrize("method", ["FOO", "get", "M-SEARCH", "PROPFIND", "PRI"])
def test_any_token_is_a_method(method: str) -> None:
    assert parse_head(lines(start=method.encode() + b" / HTTP/1.1")).method == method


@pytest.mark.parametrize(
    "start",
    [
        b"GET /",
        b"GET  / HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"GET / x HTTP/1.1",
        b"GET / HTTP/2.0",
        b"GET / HTTP/0.9",
        b"GET / HTTP/1.11",
        b"GET / http/1.1",
        b"G@T / HTTP/1.1",
        b" / HTTP/1.1",
        b" GET / HTTP/1.1",
        b"GET\t/ HTTP/1.1",
        b"\x16\x03\x01\x02\x00",
        b"",
    ],
)
def test_an_invalid_request_line_is_refused(start: bytes) -> None:
    with pytest.raises(InvalidHead):
        parse_head(lines(start=start))


@pytest.mark.parametrize(("version", "strict"), [(b"1.0", b"1.0"), (b"1.1", b"1.1"), (b"1.2", b"1.1")])
def test_later_versions_of_http_1_are_read_as_http_1_1(version: bytes, strict: bytes) -> None:
    assert parse_head(lines(start=b"GET / HTTP/" + version)).strict.startswith(b"POST / HTTP/" + strict)


@pytest.mark.parametrize(
    "headers",
    [
        [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
        [b"Content-Length: 5", b"Content-Length: 6"],
        [b"Content-Length: 5", b"content-length: 5"],
        [b"Content-Length: 5, 5"],
        [b"Content-Length: -5"],
        [b"Content-Length: +5"],
        [b"Content-Length: 0x5"],
        [b"Content-Length: 5 5"],
        [b"Content-Length: 5.0"],
        [b"Content-Length: \x0b5"],
        [b"Content-Length:"],
        [b"Content-Length: " + b"9" * 19],
        [b"Content-Length: " + b"0" * 5000 + b"5"],
        [b"Content-Length: 5\r\n 6"],
        [b"Content-Length:\r\n 5"],
        [b"Transfer-Encoding: xchunked"],
        [b"Transfer-Encoding: chunked, identity"],
        [b"Transfer-Encoding: gzip, chunked"],
        [b"Transfer-Encoding: identity"],
        [b"Transfer-Encoding:"],
        [b"Transfer-Encoding: \x0bchunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"],
        [b"Transfer-Encoding:\r\n chunked"],
        [b"Host: x", b"Host: x"],
        [b"Host: a b"],
        [b"Host: x\r\n Content-Length: 5"],
        [b"Host: \xe4"],
        [b"X: a\rb"],
        [b"X: a\r\rb"],
        [b" X: a"],
    ],
)
def test_an_ambiguous_head_is_refused(headers: list[bytes]) -> None:
    with pytest.raises(InvalidHead):
        parse_head(lines(*headers))


def test_http_1_0_has_no_chunked_bodies() -> None:
    with pytest.raises(InvalidHead, match=r"HTTP/1\.1"):
        parse_head(lines(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0"))


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b" \tchunked \t"])
def test_a_chunked_body_has_no_length(value: bytes) -> None:
    head = parse_head(lines(b"Transfer-Encoding:" + value))
    assert head.chunked


def test_the_host_of_an_absolute_target_replaces_the_host_header() -> None:
    head = parse_head(lines(b"HOST: other", b"X: 1", start=b"GET http://a:1/b?c HTTP/1.1"))
    assert head.strict == b"POST /b?c HTTP/1.1\r\nHost: a:1\r\nX: 1\r\n\r\n"


def test_connect_closes_the_connection() -> None:
    head = parse_head(lines(b"Host: a:1", start=b"CONNECT a:1 HTTP/1.1"))
    assert (head.method, head.path) == ("CONNECT", "")
    assert b"\r\nConnection: close\r\n" in head.strict


@given(st.lists(st.sampled_from([*HEAD.split(b" "), b"\n", b"\r\n", b"\r", b" ", b":", b"\0", b"\xff", b"*"])))
def test_any_bytes_are_read_or_refused(parts: list[bytes]) -> None:
    try:
        head = parse_head(b" ".join(parts).replace(b"\n\n", b"\n").lstrip(b"\r\n") + b"\n\n")
    except InvalidHead:
        return
    assert b"\r" not in head.strict.replace(b"\r\n", b"")
    assert b"\n" not in head.strict.replace(b"\r\n", b"")
    assert head.strict.index(b"\r\n\r\n") == len(head.strict) - 4

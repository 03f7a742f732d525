"""Usual request heads: read quickly, with the meaning of the full reading, and remembered without credentials."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.clients.mutated_heads import mutated
from vllama_pool.router.server.asgi import request_headers
from vllama_pool.router.server.request_head import parse_head
from vllama_pool.router.server.usual_head import UsualHeads, without_values

usual_head = UsualHeads().read

HEAD = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"


def lines(*headers: bytes, start: bytes = b"POST / HTTP/1.1") -> bytes:
    return b"\r\n".join([start, *headers, b"", b""])


OLLAMA_PYTHON = lines(
    b"Host: 127.0.0.1:11434",
    b"Accept-Encoding: gzip, deflate",
    b"Connection: keep-alive",
    b"User-Agent: ollama-python/0.6.0 (x86_64 linux) Python/3.11",
    b"CONTENT-LENGTH: 96",
    start=b"POST /api/chat HTTP/1.1",
)


@pytest.mark.parametrize("rest", [b"", b"hello", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_usual_head_is_read_without_rewriting(rest: bytes) -> None:
    usual = usual_head(OLLAMA_PYTHON + rest, 1000)
    assert usual is not None
    scope, size, length = usual
    assert (size, length) == (len(OLLAMA_PYTHON), 96)
    assert (scope["method"], scope["path"], scope["raw_path"]) == ("POST", "/api/chat", b"/api/chat")
    assert scope["headers"][-1] == (b"content-length", b"96")
    assert request_headers(scope) == dict(scope["headers"])


def test_a_switch_in_the_query_is_usual() -> None:
    usual = usual_head(lines(b"Host: x", b"Content-Length: 5", start=b"POST /v1/messages?beta=true HTTP/1.1"), 1000)
    assert usual is not None
    scope, _, length = usual
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/v1/messages", b"/v1/messages", b"beta=true")
    assert length == 5


@pytest.mark.parametrize("limit", [len(HEAD) - 1, len(HEAD)])
def test_a_usual_head_is_not_over_the_limit(limit: int) -> None:
    assert (usual_head(HEAD, limit) is None) == (limit < len(HEAD))


def test_an_incomplete_head_is_not_read() -> None:
    assert all(usual_head(HEAD[:end], 1000) is None for end in range(len(HEAD)))


@pytest.mark.parametrize(
    "head",
    [
        HEAD.replace(b"\r\n", b"\n", 1),
        lines(start=b"FOO / HTTP/1.1"),
        lines(start=b"GET /?q HTTP/1.1"),
        lines(start=b"GET /? HTTP/1.1"),
        lines(start=b"GET /?key=secret HTTP/1.1"),
        lines(start=b"GET /?ts=1234567890 HTTP/1.1"),
        lines(start=b"GET /?beta=true&key=secret HTTP/1.1"),
        lines(start=b"GET /?beta=true# HTTP/1.1"),
        lines(start=b"GET / HTTP/2.0"),
        lines(start=b"GET /\xe4 HTTP/1.1"),
        lines(start=b"GET http://x/ HTTP/1.1"),
        lines(b"X: a\rb"),
        lines(b"X: a "),
        lines(b"X: a\t"),
        lines(b"X: a", b" b"),
        lines(b"X: a", b"\tb"),
        lines(b"Host: x", b"HOST: x"),
        lines(b"Host: x/y"),
        lines(b"Host : x"),
        lines(b"Content-Length: 1", b"content-length: 1"),
        lines(b"Content-Length: +1"),
        lines(b"Content-Length:"),
        lines(b"Content-Length : 1"),
        lines(b"Content-Length: " + b"1" * 19),
        lines(b"Content-Length: 1, 1"),
        lines(b"Transfer-Encoding: chunked"),
        lines(b"Transfer-encoding : chunked"),
        lines(b"Upgrade: h2c"),
        lines(b"HTTP2-Settings: AAEA"),
        lines(b"Expect: 100-continue"),
        lines(b"Connection: close"),
        lines(b"Connection: keep-alive, close"),
        lines(b"Proxy-Connection: close"),
        lines(start=b"GET / HTTP/1.0"),
        lines(b"X: a", b"X: b"),
        lines(b"X: a\x7fb"),
        lines(b"X"),
        lines(b": a"),
        lines(b"X Y: a"),
        b"\r\n" + HEAD,
    ],
)
def test_every_other_head_is_left_to_the_full_check(head: bytes) -> None:
    assert usual_head(head, 1000) is None


@given(st.randoms(use_true_random=False))
def test_the_quick_check_accepts_nothing_that_the_full_one_refuses_or_changes(rng: random.Random) -> None:
    data = mutated(rng)
    usual = usual_head(data, 100_000)
    if usual is None:
        return
    scope, size, length = usual
    full = parse_head(data[:size])
    assert (full.method, full.length, full.path) == (scope["method"], length, None)
    assert full.strict == b"POST" + data[len(scope["method"]) : size]


@pytest.mark.parametrize("name", [b"Content-Length", b"content-length", b"CONTENT-LENGTH"])
def test_heads_that_differ_in_their_length_only_are_told_apart(name: bytes) -> None:
    for length in (b"0", b"5", b"123456789012345678", b"5"):
        usual = usual_head(lines(b"Host: x", name + b": " + length, b"X: y"), 1000)
        assert usual is not None
        scope, _, body_length = usual
        assert body_length == int(length)
        assert scope["headers"] == [(b"host", b"x"), (b"content-length", length), (b"x", b"y")]
        assert request_headers(scope)[b"content-length"] == length


def test_the_scope_of_a_request_is_its_own() -> None:
    for _ in range(2):
        usual = usual_head(HEAD, 1000)
        assert usual is not None
        scope, *_ = usual
        assert scope["headers"] == [(b"host", b"x"), (b"content-length", b"5")]
        scope["headers"].clear()
        scope["path"] = "/other"


@pytest.mark.parametrize(
    ("header", "remembered"),
    [
        (b"X: y", True),
        (b"Authorization: Bearer k", True),
        (b"X-Api-Key: k", True),
        (b"X-API-KEY: k", False),
        (b"AUTHORIZATION: Bearer k", False),
        (b"Authorization: Bearer  k", False),
        (b"Authorization: Bearer \xe4", False),
        (b"Proxy-Authorization: Basic k", False),
        (b"Other-Api-Key: k", False),
        (b"Cookie: k", False),
        (b"X-Auth-Token: k", False),
        (b"X: " + b"a" * 1024, False),
    ],
)
def test_short_heads_are_remembered_without_secrets(header: bytes, remembered: bool) -> None:
    heads = [usual_head(lines(b"Content-Length: 1", header), 5000) for _ in range(2)]
    (first, second) = [head[0]["asgi"] for head in heads if head is not None]
    assert (first is second) == remembered


@pytest.mark.parametrize("name", [b"Authorization", b"authorization", b"AUTHORIZATION", b"X-Api-Key", b"x-api-key"])
def test_each_request_has_its_own_credentials(name: bytes) -> None:
    for value in (b"Bearer one", b"Bearer two", b"x", b"Bearer one"):
        head = lines(b"Host: x", name + b": " + value, b"Content-Length: 3")
        usual = usual_head(head, 1000)
        assert usual is not None
        scope, _, length = usual
        assert length == 3
        assert scope["headers"] == [(b"host", b"x"), (name.lower(), value), (b"content-length", b"3")]
        assert request_headers(scope)[name.lower()] == value
        if name != b"AUTHORIZATION":  # not remembered
            remembered, values = without_values(head + b"abc", len(head))
            assert value == b"x" or value not in remembered
            assert values == [value, b"3"]

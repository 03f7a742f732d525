"""Requests as networks send them: line ends, HTTP/1.0, unclean paths, odd targets, smuggling, and mutations."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.support.clients.mutated_heads import fuzz
from tests.support.clients.raw_connection import raw
from tests.support.fleet.live import Fleet, fleet
from vllama_pool.router.server import refusal_log
from vllama_pool.workers.simulated.options import Options

QUICK = Options(model="tiny:latest", tokens_per_second=2000, ttft=0.0, answer_tokens=5)
RUNNING = b"Ollama is running"
HOST = b"Host: localhost\r\n"
LAST = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
STREAMS = [
    ("/api/chat", {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}),
    ("/api/generate", {"model": "tiny", "prompt": "hi"}),
    ("/api/pull", {"model": "tiny"}),
    ("/api/create", {"model": "mine", "from": "tiny", "system": "s"}),
    ("/api/chat", {"model": "nope", "messages": [{"role": "user", "content": "hi"}]}),
    ("/api/pull", {"model": "nope"}),
    ("/api/create", {"model": "mine", "from": "nope"}),
]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path_factory.mktemp("state"), {"a": QUICK}, body_limit=2**20) as one:
        yield one


class LogCollector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Warnings and errors of the router, of asyncio, and of uvicorn, whose loggers do not propagate.

    Without the lines of refusals, which are limited in number.
    """
    collector = LogCollector()
    collector.addFilter(lambda record: record.name != refusal_log.__name__)
    loggers = [logging.getLogger(), logging.getLogger("uvicorn.error")]
    with caplog.at_level(logging.WARNING), caplog.at_level(logging.WARNING, "uvicorn.error"):
        for logger in loggers:
            logger.addHandler(collector)
        yield collector.texts
        for logger in loggers:
            logger.removeHandler(collector)


def split(response: bytes) -> tuple[bytes, dict[bytes, bytes], bytes]:
    head, _, body = response.partition(b"\r\n\r\n")
    line, *headers = head.split(b"\r\n")
    return (
        line.split(b" ")[1],
        {name: value for name, _, value in (header.partition(b": ") for header in headers)},
        body,
    )


def post(path: str, body: object, *, version: str = "1.0", headers: bytes = b"", end: bytes = b"\r\n") -> bytes:
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/{version}".encode(), b"Host: localhost", b"Content-Length: %d" % len(data), b""]
    return end.join(lines) + headers + end + data


async def test_the_health_check_of_a_shell_is_answered(running: Fleet) -> None:
    status, _, body = split(await raw(running, b"GET / HTTP/1.0\n\n"))
    assert (status, body) == (b"200", RUNNING)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(("path", "body"), STREAMS[:3])
async def test_a_post_is_read_with_either_line_end_and_in_single_bytes(
    running: Fleet, path: str, body: object, version: str, end: bytes
) -> None:
    request = post(path, body, version=version, headers=b"Connection: close" + end, end=end)
    status, _, _ = split(await raw(running, request))
    assert status == b"200"
    status, _, _ = split(await raw(running, *(request[index : index + 1] for index in range(len(request)))))
    assert status == b"200"


@pytest.mark.parametrize("keep", [b"", b"Connection: keep-alive\r\n"])
@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_an_http_1_0_client_gets_plain_lines_and_the_end_of_the_connection(
    running: Fleet, path: str, body: dict[str, object], keep: bytes
) -> None:
    expected = await running.http.post(path, json=body)
    response = await raw(running, post(path, body, headers=keep), LAST)
    status, headers, received = split(response)
    assert response.startswith(b"HTTP/1.0 ")
    assert int(status) == expected.status_code
    assert b"transfer-encoding" not in headers
    if b"content-length" in headers and keep:
        received = received[: int(headers[b"content-length"])]
    lines = [json.loads(line) for line in received.splitlines()]
    assert [sorted(line) for line in lines] == [sorted(json.loads(line)) for line in expected.text.splitlines()]


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags", "/api/ps", "/nope", "/api/chat"])
async def test_an_http_1_0_connection_is_kept_if_asked_for(running: Fleet, path: str) -> None:
    keep = f"GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: Keep-Alive\r\n\r\n".encode()
    last = f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode()
    answers = await raw(running, keep, last)
    assert answers.count(b"HTTP/1.0 ") == 2
    assert answers.lower().count(b"connection: keep-alive") == 1


async def test_http_1_0_responses_without_a_body_end_with_the_connection(running: Fleet) -> None:
    await running.http.post("/api/create", json={"model": "b1", "from": "tiny", "system": "s"})
    copied = await raw(running, post("/api/copy", {"source": "b1", "destination": "b2"}))
    assert split(copied)[::2] == (b"200", b"")
    assert split(await raw(running, b"HEAD / HTTP/1.0\r\n\r\n"))[::2] == (b"200", b"")


@pytest.mark.parametrize("prefix", ["/", "/.", "/x/..", "/..", "//.//", "/%2e", "/x/%2E%2E", "/%2f"])
async def test_unclean_paths_are_served(running: Fleet, prefix: str) -> None:
    for method, path, body in [
        ("GET", "/api/tags", None),
        ("HEAD", "/api/tags", None),
        ("HEAD", "/", None),
        ("GET", "/", None),
        ("POST", "/api/show", {"model": "tiny"}),
        ("POST", "/api/chat", STREAMS[0][1]),
        ("GET", "/v1/models", None),
        ("GET", "/v1/models/tiny", None),
    ]:
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {prefix}{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        request = f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data
        assert split(await raw(running, request))[0] == b"200", f"{method} {prefix}{path}"


async def test_every_spelling_of_a_path_needs_the_key(tmp_path: Path) -> None:
    async with fleet(tmp_path, {}, api_keys=["anna:" + "a" * 64]) as one:
        for path in (
            "/api/tags",
            "//api/tags",
            "/./api/tags",
            "/x/../api/tags",
            "/health/../api/tags",
            "/%2e/api/tags",
        ):
            request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            assert split(await raw(one, request))[0] == b"401", path
            request = f"GET http://localhost{path} HTTP/1.0\r\n\r\n".encode()
            assert split(await raw(one, request))[0] == b"401", path


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET http://localhost", b"200"),
        ("GET http://localhost/api/tags?x", b"200"),
        ("GET HTTP://localhost:11434//api/tags", b"200"),
        ("GET http://evil.example/api/tags", b"403"),
        ("GET http://localhost/nope", b"404"),
        ("CONNECT localhost:443", b"404"),
        ("CONNECT evil.example:443", b"404"),
        ("CONNECT /api/tags", b"405"),
        ("OPTIONS *", b"200"),
        ("GET *", b"400"),
        ("GET api/tags", b"400"),
        ("GET localhost:11434/api/tags", b"400"),
        ("GET ?a", b"400"),
        ("GET /api/%zz", b"400"),
        ("GET /api/%74ags", b"200"),
        ("GET /%00", b"404"),
        ("GET /%ff", b"404"),
        ("GET /\xe4", b"404"),
        ("GET /api/tags?\xe4%zz#", b"200"),
        ("GET /api/tags#x", b"404"),
        ("GET /" + "a" * 60_000, b"404"),
        ("GET /" + "\xe4" * 60_000, b"400"),
        ("GET /" + "a" * 70_000, b"431"),
        ("FOO /api/tags", b"405"),
        ("get /api/tags", b"405"),
        ("PROPFIND /", b"405"),
        ("M-SEARCH /api/chat", b"405"),
        ("TRACE /", b"405"),
        ("FOO /nope", b"404"),
        ("F@O /", b"400"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_odd_targets_and_methods_get_a_clean_answer(
    running: Fleet, line: str, status: bytes, logged: list[str]
) -> None:
    request = line.encode("latin-1") + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    response = split(await raw(running, request))
    assert response[0] == status
    if status == b"405":
        assert (response[2], b"allow" in response[1]) == (b"405 method not allowed", True)
    assert logged == []


@pytest.mark.parametrize(
    "request_",
    [
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3;x\nabc\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\n" + HOST + b"Transfer-Encoding: chunked\n\n3\nabc\n0\n\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\n" + HOST + b"Content-Length: 5\nTransfer-Encoding: chunked\n\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 0x0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\n" + HOST + b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length:\n 0\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"X: a\rContent-Length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n",
        b"POST / HTTP/1.1\r" + HOST + b"\r\r",
        b"POST / HTTP/1.1\r\n" + HOST + b"Host: other\r\n\r\n",
    ],
)
async def test_nothing_after_an_ambiguous_request_is_taken_for_a_request(running: Fleet, request_: bytes) -> None:
    response = await raw(running, request_ + LAST)
    assert response.count(b"HTTP/1.1 ") == 1
    assert response.startswith(b"HTTP/1.1 400")


async def test_requests_with_every_line_end_and_framing_share_a_connection(running: Fleet) -> None:
    body = b'{"model":"tiny"}'
    chunked = (
        b"POST /api/show HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n\n10\r\n" + body + b"\r\n0\r\n\r\n"
    )
    sized = b"POST /api/show HTTP/1.1\nHost: localhost\nContent-Length: 16\n\n" + body
    answers = await raw(running, (chunked + sized) * 3 + LAST)
    assert answers.count(b"HTTP/1.1 200") == 7


async def malformed(running: Fleet) -> float:
    """Return the number of malformed requests that the router has refused."""
    page = (await running.http.get("/metrics")).text
    (line,) = [line for line in page.splitlines() if line.startswith('vllama_refusals_total{reason="malformed"}')]
    return float(line.split()[1])


async def test_malformed_requests_are_counted_and_few_are_logged(
    running: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    before = await malformed(running)
    with caplog.at_level(logging.WARNING, refusal_log.__name__):
        for index in range(20):
            assert (await raw(running, b"%d garbage\r\n\r\n" % index)).startswith(b"HTTP/1.1 400")
    assert await malformed(running) - before == 20
    lines = [record for record in caplog.records if record.name == refusal_log.__name__]
    assert len(lines) <= 1


async def test_mutated_requests_cause_no_error_of_the_server(
    running: Fleet, logged: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    url = httpx.URL(running.url)
    before = await malformed(running)
    with caplog.at_level(logging.WARNING, refusal_log.__name__):
        answered = await fuzz(url.host, url.port or 0, 500)
    refusals = [record.getMessage() for record in caplog.records if record.name == refusal_log.__name__]
    assert len(refusals) <= 20  # a few for each reason, and more if the test takes minutes
    assert all(text.isprintable() and text.startswith("refused: ") and ";" in text for text in refusals)
    assert await malformed(running) - before >= len(answered[400]) / 2  # some are answered by handlers
    assert {status: sent[0] for status, sent in answered.items() if status >= 500} == {}
    assert logged == []
    assert {200, 400} <= set(answered)
    assert (await running.http.get("/")).content == RUNNING

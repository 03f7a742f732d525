"""HTTP behaviour over real sockets that `vllama compat` does not check: limits, framing, exact headers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.clients.raw_connection import raw
from tests.support.fleet.live import Fleet, fleet
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

QUICK = Options(model="tiny:latest", tokens_per_second=2000, ttft=0.0, answer_tokens=5)
DIGEST = "sha256:" + "a" * 64
JSON = "application/json; charset=utf-8"
POSTS = ("/api/chat", "/api/generate", "/api/show", "/api/push")
"""Two streaming routes, one that returns JSON, and one with a fixed answer."""
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path_factory.mktemp("state"), {"a": QUICK}, body_limit=2**20) as one:
        yield one


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": False, **more}


@pytest.mark.rule(4)
async def test_the_reported_version_is_a_setting(tmp_path: Path) -> None:
    async with fleet(tmp_path, {}, version="0.40.1") as one:
        assert (await one.http.get("/api/version")).json() == {"version": "0.40.1"}


@pytest.mark.rule(37)
@pytest.mark.parametrize("path", [f"/api/blobs/{DIGEST}", f"/api/blobs/{DIGEST}?beta=true"])
async def test_a_route_that_is_not_offered_answers_501_in_json(running: Fleet, path: str) -> None:
    answer = await running.http.post(path, content=b"anything")
    assert (answer.status_code, answer.headers["content-type"]) == (501, JSON)
    assert answer.json()["error"]


@pytest.mark.rule(31)
@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [("org/nope:8b", 404, "not_found_error"), ("a%20b", 400, "invalid_request_error")],
)
async def test_openai_errors_for_unknown_and_invalid_model_names(
    running: Fleet, name: str, status: int, kind: str
) -> None:
    answer = await running.http.get(f"/v1/models/{name}")
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)


@pytest.mark.rule(36)
async def test_a_percent_encoded_path_is_decoded_before_routing(running: Fleet) -> None:
    assert (await running.http.get("/api/%74ags")).status_code == 200


@pytest.mark.rule(181)
@pytest.mark.parametrize("path", ["/api/nothing", "/api/show"])
async def test_errors_carry_cors_headers_too(running: Fleet, path: str) -> None:
    answer = await running.http.get(path, headers={"origin": "http://localhost:3000"})
    assert answer.status_code in (404, 405)
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert answer.headers["vary"] == "Origin"


@pytest.mark.rule(7, 37)
async def test_push_is_refused(running: Fleet) -> None:
    answer = await running.http.post("/api/push", json={"model": "tiny"})
    assert (answer.status_code, answer.headers["content-type"]) == (501, JSON)
    assert answer.json()["error"].startswith("push is not supported")


@pytest.mark.rule(44)
async def test_each_line_is_sent_at_once_in_a_chunk_of_whole_lines(tmp_path: Path) -> None:
    """The worker stalls in the middle of its answer, so the lines received cannot have been flushed by later ones."""
    async with fleet(tmp_path, {"a": QUICK}) as running:
        running["a"].set_faults([faults.Stall(after_tokens=3)])
        url = httpx.URL(running.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        body = json.dumps({"model": "tiny", "prompt": "hello"}).encode()
        head = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        lines: list[dict[str, Any]] = []
        async with asyncio.timeout(30):
            assert b"transfer-encoding: chunked" in (await reader.readuntil(b"\r\n\r\n")).lower()
            while len(lines) < 3:
                size = int(await reader.readline(), 16)
                chunk = (await reader.readexactly(size + 2)).removesuffix(b"\r\n")
                assert chunk.endswith(b"\n")
                lines += [json.loads(line) for line in chunk.removesuffix(b"\n").split(b"\n")]
        writer.close()
    assert [line["done"] for line in lines] == [False] * 3


@pytest.mark.rule(39, 177)
async def test_the_content_type_of_a_request_is_ignored(running: Fleet) -> None:
    for kind in (
        "application/x-www-form-urlencoded",
        "text/plain",
        "multipart/form-data",
        "application/json; charset=x",
    ):
        headers = {"content-type": kind, "accept": "image/png"}
        for path in ("/api/chat", "/api/show"):
            answer = await running.http.post(path, content=json.dumps(chat()), headers=headers)
            assert answer.status_code == 200, (path, kind)
            assert answer.headers["content-type"] == JSON
    bare = await running.http.post("/api/chat", content=json.dumps(chat()).encode())
    assert bare.status_code == 200
    assert "content-type" not in bare.request.headers


@pytest.mark.rule(178)
@pytest.mark.parametrize("path", POSTS)
async def test_a_compressed_body_is_refused_with_415(running: Fleet, path: str) -> None:
    for encoding in ("gzip", "zstd", "br", "deflate, gzip"):
        answer = await running.http.post(path, content=b"\x1f\x8b", headers={"content-encoding": encoding})
        assert (answer.status_code, answer.headers["content-type"]) == (415, JSON)
        assert answer.json() == {"error": f"request bodies in {encoding} are not supported; send them uncompressed"}
    plain = await running.http.post(path, json=chat(), headers={"content-encoding": "identity"})
    assert plain.status_code in (200, 501)


@pytest.mark.parametrize("path", POSTS)
async def test_a_client_that_is_still_sending_sees_the_413_for_a_large_body(running: Fleet, path: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(48):
            yield b" " * 2**18

    for body in (b" " * (12 * 2**20), pieces()):
        answer = await running.http.post(path, content=body)
        assert (answer.status_code, answer.headers["content-type"]) == (413, JSON)
        assert "larger than 1 MiB" in answer.json()["error"]
        assert (await running.http.get("/")).status_code == 200


async def test_an_http_1_0_client_receives_the_whole_413(running: Fleet) -> None:
    size = 12 * 2**20
    head = b"POST /api/chat HTTP/1.0\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size
    answer = await raw(running, head, *[b" " * 2**18] * 48)
    assert answer.startswith(b"HTTP/1.0 413 ")
    assert b"larger than 1 MiB" in answer


async def test_expect_100_continue_is_answered_or_refused_before_the_body(running: Fleet) -> None:
    large = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    refused = await raw(running, large % 2**30)
    assert refused.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in refused
    body = json.dumps(chat()).encode()
    head = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nExpect: 100-continue\r\n"
    accepted = await raw(running, head + b"Content-Length: %d\r\n\r\n" % len(body), body)
    assert accepted.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


async def test_an_upgrade_to_http_2_is_ignored(running: Fleet) -> None:
    """Java's HTTP client sends this offer with its first request, even with a POST."""
    body = json.dumps(chat()).encode()
    head = (
        b"POST /api/chat HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings, close\r\nHost: localhost\r\n"
        b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n"
    )
    for sent in ([head % len(body) + body], [head % len(body), body]):
        answer = await raw(running, *sent)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["done"]


async def test_images_of_many_megabytes_are_accepted(tmp_path: Path) -> None:
    image = "/9j/" + "A" * (24 * 2**20)
    async with fleet(tmp_path, {"a": QUICK}) as running:
        body = chat(messages=[{"role": "user", "content": "what is it?", "images": [image]}])
        answer = await running.http.post("/api/chat", json=body)
        assert answer.status_code != 413
        assert answer.status_code < 500


@pytest.mark.rule(180)
async def test_responses_have_exactly_ollamas_headers(running: Fleet) -> None:
    whole = await running.http.post("/api/chat", json=chat())
    assert set(whole.headers) == {"content-type", "content-length", "date"}
    streamed = await running.http.post("/api/chat", json=chat(stream=True))
    assert set(streamed.headers) == {"content-type", "transfer-encoding", "date"}
    refused = await running.http.post("/api/chat", json={"model": "nope"})
    assert set(refused.headers) == {"content-type", "content-length", "date"}
    traced = await running.http.get("/", headers={"x-request-id": "mine"})
    assert traced.headers["x-request-id"] == "mine", "echoed only if the client sends one"


@pytest.mark.rule(164, 165, 183)
async def test_foreign_hosts_and_origins_get_an_empty_403_on_every_route(running: Fleet) -> None:
    for headers in ({"host": "evil.example.com"}, {"origin": "https://evil.example.com"}):
        for method, path in (("POST", "/api/chat"), ("GET", "/"), ("GET", "/api/nothing"), ("OPTIONS", "/api/tags")):
            answer = await running.http.request(method, path, headers=headers)
            assert (answer.status_code, answer.content) == (403, b"")
            assert "content-type" not in answer.headers

"""The HTTP surface over real sockets: every route, and the headers and bodies around them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.live import Fleet, fleet
from vllama_pool.workers.simulated import script
from vllama_pool.workers.simulated.options import Options

QUICK = Options(model="tiny:latest", tokens_per_second=2000, ttft=0.0, answer_tokens=5)
DIGEST = "sha256:" + "a" * 64
JSON = "application/json; charset=utf-8"
POSTS = ("/api/chat", "/api/generate", "/api/show", "/api/push")
"""A raw route of each kind, one of the framework's, and a fixed answer that looks into its body."""


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, {"a": QUICK}, body_limit=2**20) as one:
        yield one


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": False, **more}


async def raw(running: Fleet, *sent: bytes) -> bytes:
    """All that comes back for these bytes until the server closes."""
    url = httpx.URL(running.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        for data in sent:
            writer.write(data)
            await writer.drain()
        async with asyncio.timeout(15):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.rule(1, 2, 3, 4, 8)
async def test_what_clients_ask_first(running: Fleet) -> None:
    root = await running.http.get("/")
    assert (root.status_code, root.content) == (200, b"Ollama is running")
    assert root.headers["content-type"] == "text/plain; charset=utf-8"
    version = await running.http.get("/api/version")
    assert version.content == b'{"version":"0.33.0"}'
    for path in ("/", "/api/version", "/api/tags"):
        got, head = await running.http.get(path), await running.http.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert {**head.headers, "date": ""} == {**got.headers, "date": ""}


@pytest.mark.rule(4)
async def test_the_version_can_be_set(tmp_path: Path) -> None:
    async with fleet(tmp_path, {}, version="0.40.1") as one:
        assert (await one.http.get("/api/version")).json() == {"version": "0.40.1"}


@pytest.mark.rule(5, 12, 13, 14, 16, 17, 19, 20, 113)
@pytest.mark.parametrize(
    ("rule", "method", "path", "status"),
    [
        ("r005", "GET", "/api/status", 200),
        ("r012", "POST", "/api/me", 401),
        ("r013", "POST", "/api/signout", 401),
        ("r014", "DELETE", "/api/user/keys/abc", 401),
        ("r016", "POST", f"/api/blobs/{DIGEST}", 501),
        ("r017", "HEAD", f"/api/blobs/{DIGEST}", 404),
        ("r017", "HEAD", "/api/blobs/x", 400),
        ("r019", "POST", "/api/experimental/web_search", 403),
        ("r020", "POST", "/api/experimental/web_fetch", 403),
        ("r113", "GET", "/api/experimental/aliases", 404),
        ("v1", "POST", "/v1/chat/completions", 501),
        ("v1", "POST", "/v1/messages?beta=true", 501),
    ],
)
async def test_fixed_answers(running: Fleet, rule: str, method: str, path: str, status: int) -> None:
    answer = await running.http.request(method, path, content=b"anything" if method == "POST" else None)
    assert answer.status_code == status, rule
    if status != 404:
        assert answer.headers["content-type"] == JSON
        assert method == "HEAD" or isinstance(answer.json(), dict)


@pytest.mark.rule(7, 37)
async def test_push_is_refused(running: Fleet) -> None:
    answer = await running.http.post("/api/push", json={"model": "tiny"})
    assert (answer.status_code, answer.headers["content-type"]) == (501, JSON)
    assert answer.json()["error"].startswith("models cannot be pushed from here")


@pytest.mark.rule(21, 30, 31, 117)
async def test_models_in_other_words(running: Fleet) -> None:
    listed = (await running.http.get("/v1/models")).json()
    assert [(one["id"], one["owned_by"]) for one in listed["data"]] == [("tiny:latest", "library")]
    one = await running.http.get("/v1/models/TINY")
    assert (one.status_code, one.json()["id"]) == (200, "TINY")
    missing = await running.http.get("/v1/models/org/nope:8b")
    assert missing.status_code == 404
    assert missing.json() == {
        "error": {"message": "model 'org/nope:8b' not found", "type": "not_found_error", "param": None, "code": None}
    }
    bad = await running.http.get("/v1/models/a%20b")
    assert (bad.status_code, bad.json()["error"]["type"]) == (400, "invalid_request_error")
    recommended = (await running.http.get("/api/experimental/model-recommendations")).json()
    assert [one["model"] for one in recommended["recommendations"]] == ["tiny:latest"]


@pytest.mark.rule(35)
async def test_what_ollama_has_not_is_not_there(running: Fleet) -> None:
    paths = ("/v1/messages/count_tokens", "/v1/images/generations", "/api/tokenize", "/api/detokenize")
    for path in paths:
        answer = await running.http.post(path, json={})
        assert (answer.status_code, answer.text) == (404, "404 page not found"), path


@pytest.mark.rule(36)
async def test_unknown_paths_wrong_methods_and_slashes(running: Fleet) -> None:
    for method, path in (("GET", "/api/nothing"), ("POST", "//api/chat"), ("GET", "/API/tags"), ("PUT", "/x/")):
        answer = await running.http.request(method, f"{running.url}{path}")
        assert (answer.status_code, answer.content) == (404, b"404 page not found"), path
        assert answer.headers["content-type"] == "text/plain"
    for method, path in (("GET", "/api/chat"), ("PUT", "/api/tags"), ("POST", "/"), ("GET", f"/api/blobs/{DIGEST}")):
        answer = await running.http.request(method, path)
        assert (answer.status_code, answer.content) == (405, b"405 method not allowed"), path
        assert answer.headers["content-type"] == "text/plain"
    assert (await running.http.head("/api/ps")).status_code == 405
    moved = await running.http.get("/api/tags/?a=b")
    assert (moved.status_code, moved.headers["location"]) == (301, "/api/tags?a=b")
    sent_on = await running.http.post("/api/chat/", json=chat(), follow_redirects=True)
    assert (sent_on.history[0].status_code, sent_on.status_code) == (307, 200)
    assert (await running.http.get("/api/%74ags")).status_code == 200


@pytest.mark.rule(38)
async def test_cloud_names_are_refused(running: Fleet) -> None:
    for path in ("/api/chat", "/api/generate"):
        answer = await running.http.post(path, json=chat(model="kimi-k2:1t-cloud", prompt="x"))
        assert answer.status_code == 403
        assert answer.json() == {"error": "ollama cloud is disabled: remote model is unavailable"}
    shown = await running.http.post("/api/show", json={"model": "kimi-k2:cloud"})
    assert shown.status_code == 403
    assert shown.json() == {"error": "ollama cloud is disabled: remote model details are unavailable"}


@pytest.mark.rule(40, 42, 43)
async def test_streams_by_default_and_one_object_where_not(running: Fleet) -> None:
    whole = await running.http.post("/api/chat", json=chat())
    assert whole.headers["content-type"] == JSON
    assert not whole.content.endswith(b"\n")
    for key in ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"):
        assert type(whole.json()[key]) is int, key
        assert whole.json()[key] > 0, key
    body = {key: value for key, value in chat(prompt="hello").items() if key != "stream"}
    for path in ("/api/chat", "/api/generate"):
        streamed = await running.http.post(path, json=body)
        assert streamed.headers["content-type"] == "application/x-ndjson"
        lines = streamed.text.splitlines()
        assert [json.loads(line)["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
        assert "eval_count" not in lines[0], "metrics that are zero are left out"


@pytest.mark.rule(44)
async def test_chunks_are_whole_lines_and_sent_at_once(tmp_path: Path) -> None:
    """The worker falls silent in the middle of its answer, so nothing that comes was held back for more."""
    async with fleet(tmp_path, {"a": QUICK}) as running:
        running["a"].set_faults([script.Stall(after_tokens=3)])
        url = httpx.URL(running.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        body = json.dumps({"model": "tiny", "prompt": "hello"}).encode()
        head = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        lines: list[dict[str, Any]] = []
        async with asyncio.timeout(15):
            assert b"transfer-encoding: chunked" in (await reader.readuntil(b"\r\n\r\n")).lower()
            while len(lines) < 3:
                size = int(await reader.readline(), 16)
                chunk = (await reader.readexactly(size + 2)).removesuffix(b"\r\n")
                assert chunk.endswith(b"\n")
                lines += [json.loads(line) for line in chunk.removesuffix(b"\n").split(b"\n")]
        writer.close()
    assert [line["done"] for line in lines] == [False] * 3


@pytest.mark.rule(39, 177)
async def test_the_content_type_of_a_body_is_not_looked_at(running: Fleet) -> None:
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
async def test_compressed_bodies_are_refused_before_they_are_read(running: Fleet, path: str) -> None:
    for encoding in ("gzip", "zstd", "br", "deflate, gzip"):
        answer = await running.http.post(path, content=b"\x1f\x8b", headers={"content-encoding": encoding})
        assert (answer.status_code, answer.headers["content-type"]) == (415, JSON)
        assert answer.json() == {"error": f"request bodies are not taken as {encoding}; send them uncompressed"}
    plain = await running.http.post(path, json=chat(), headers={"content-encoding": "identity"})
    assert plain.status_code in (200, 501)


@pytest.mark.rule(178)
async def test_answers_are_never_compressed(running: Fleet) -> None:
    for path in ("/api/tags", "/"):
        answer = await running.http.get(path, headers={"accept-encoding": "gzip, br, zstd"})
        assert "content-encoding" not in answer.headers
        assert "vary" not in answer.headers


@pytest.mark.rule(150)
@pytest.mark.parametrize("path", POSTS)
async def test_an_empty_body_is_named(running: Fleet, path: str) -> None:
    for body in (b"", b"  \n"):
        answer = await running.http.post(path, content=body)
        assert (answer.status_code, answer.json()) == (400, {"error": "missing request body"})


@pytest.mark.parametrize("path", POSTS)
async def test_a_body_over_the_limit_is_413_and_the_client_that_still_sends_sees_it(running: Fleet, path: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(48):
            yield b" " * 2**18

    for body in (b" " * (12 * 2**20), pieces()):
        answer = await running.http.post(path, content=body)
        assert (answer.status_code, answer.headers["content-type"]) == (413, JSON)
        assert "larger than 1 MiB" in answer.json()["error"]
        assert (await running.http.get("/")).status_code == 200


async def test_a_413_reaches_a_client_whose_connection_ends_with_it(running: Fleet) -> None:
    size = 12 * 2**20
    head = b"POST /api/chat HTTP/1.0\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size
    answer = await raw(running, head, *[b" " * 2**18] * 48)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"larger than 1 MiB" in answer


async def test_a_client_that_waits_to_send_is_answered_first(running: Fleet) -> None:
    large = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    refused = await raw(running, large % 2**30)
    assert refused.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in refused
    body = json.dumps(chat()).encode()
    head = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nExpect: 100-continue\r\n"
    taken = await raw(running, head + b"Content-Length: %d\r\n\r\n" % len(body), body)
    assert taken.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


async def test_an_offer_to_change_to_http_2_is_not_taken_up(running: Fleet) -> None:
    """Java's client makes one with its first request, a POST as well."""
    body = json.dumps(chat()).encode()
    head = (
        b"POST /api/chat HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings, close\r\nHost: localhost\r\n"
        b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n"
    )
    for sent in ([head % len(body) + body], [head % len(body), body]):
        answer = await raw(running, *sent)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["done"]


async def test_images_of_many_megabytes_are_taken(tmp_path: Path) -> None:
    image = "/9j/" + "A" * (24 * 2**20)
    async with fleet(tmp_path, {"a": QUICK}) as running:
        body = chat(messages=[{"role": "user", "content": "what is it?", "images": [image]}])
        answer = await running.http.post("/api/chat", json=body)
        assert answer.status_code != 413
        assert answer.status_code < 500


@pytest.mark.rule(179)
async def test_credentials_are_ignored_where_there_are_no_keys(running: Fleet) -> None:
    answer = await running.http.post("/api/chat?ts=1700000000", json=chat(), headers={"authorization": "ssh key:sig"})
    assert answer.status_code == 200
    assert "www-authenticate" not in answer.headers


@pytest.mark.rule(180)
async def test_answers_have_ollamas_headers_and_no_others(running: Fleet) -> None:
    whole = await running.http.post("/api/chat", json=chat())
    assert set(whole.headers) == {"content-type", "content-length", "date"}
    streamed = await running.http.post("/api/chat", json=chat(stream=True))
    assert set(streamed.headers) == {"content-type", "transfer-encoding", "date"}
    refused = await running.http.post("/api/chat", json={"model": "nope"})
    assert set(refused.headers) == {"content-type", "content-length", "date"}
    traced = await running.http.get("/", headers={"x-request-id": "mine"})
    assert traced.headers["x-request-id"] == "mine", "only for who sends one"


@pytest.mark.rule(181, 182)
async def test_pages_are_told_what_they_may(running: Fleet) -> None:
    origin = "http://localhost:3000"
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,x-stainless-os",
    }
    preflight = await running.http.options("/api/chat", headers=asked)
    assert (preflight.status_code, preflight.content) == (204, b"")
    assert preflight.headers["access-control-allow-origin"] == origin
    assert preflight.headers["access-control-max-age"] == "43200"
    allowed = preflight.headers["access-control-allow-headers"].lower().split(",")
    assert {"authorization", "content-type", "x-requested-with", "x-stainless-os"} <= set(allowed)
    assert not [name for name in allowed if name.startswith("anthropic") or name == "x-api-key"]
    for answer in (
        await running.http.post("/api/chat", json=chat(), headers={"origin": origin}),
        await running.http.get("/api/nothing", headers={"origin": origin}),
        await running.http.get("/api/status", headers={"origin": origin}),
    ):
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["vary"] == "Origin"
    same = await running.http.get("/api/status", headers={"origin": running.url})
    assert "access-control-allow-origin" not in same.headers


@pytest.mark.rule(164, 165, 183)
async def test_foreign_hosts_and_origins_get_an_empty_403(running: Fleet) -> None:
    for headers in ({"host": "evil.example.com"}, {"origin": "https://evil.example.com"}):
        for method, path in (("POST", "/api/chat"), ("GET", "/"), ("GET", "/api/nothing"), ("OPTIONS", "/api/tags")):
            answer = await running.http.request(method, path, headers=headers)
            assert (answer.status_code, answer.content) == (403, b"")
            assert "content-type" not in answer.headers

"""Answers of the front door on OpenAI's and Anthropic's routes, before a worker is asked, over real sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.support.fleet.live import Fleet, fleet
from tests.support.tables import routing_table
from tests.support.v1_requests import JSON_PATHS, PATHS, body, content
from tests.support.zstd import frame
from vllama_pool.config.api_keys import ApiKey, digest
from vllama_pool.router.protocol.error_bodies import speaks_anthropic
from vllama_pool.router.server.zstd_body import ZSTD_PATHS
from vllama_pool.workers.simulated.options import Options

QUICK = Options(model="tiny:latest", tokens_per_second=2000, ttft=0.0, answer_tokens=5)
VECTORS = Options(model="vectors", embedding=True)
TABLE = routing_table(models={"out": {"serve": "nothing"}})
LIMIT = 2**20
ZSTD = tuple(path for path in PATHS if path in ZSTD_PATHS)
ANTHROPIC_TYPES = {413: "request_too_large", 503: "overloaded_error"}
OPENAI_TYPES = {401: "authentication_error", 404: "not_found_error", 501: "api_error", 503: "api_error"}
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    workers = {"a": QUICK, "e": VECTORS}
    async with fleet(tmp_path_factory.mktemp("state"), workers, table=TABLE, body_limit=LIMIT) as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    keys = (ApiKey("anna", digest("annas-key")),)
    async with fleet(tmp_path_factory.mktemp("keyed"), {"a": QUICK}, table=TABLE, api_keys=keys) as one:
        yield one


def message(answer: httpx.Response, path: str, status: int) -> str:
    """Return the text of an error, which must have the format of the path's API and name the request."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json; charset=utf-8")
    found, request_id = answer.json(), answer.headers["x-request-id"]
    assert request_id
    if speaks_anthropic(path):
        kind = ANTHROPIC_TYPES.get(status) or OPENAI_TYPES.get(status, "invalid_request_error")
        assert answer.headers["request-id"] == found.pop("request_id") == f"req_{request_id}"
        assert found == {"type": "error", "error": {"type": kind, "message": found["error"]["message"]}}
    else:
        assert "request-id" not in answer.headers
        assert set(found) == {"error"}
        assert set(found["error"]) == {"message", "type", "param", "code"}
        assert found["error"]["type"] == OPENAI_TYPES.get(status, "invalid_request_error")
    text: str = found["error"]["message"]
    return text


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_over_the_limit_is_a_413_for_a_client_that_still_sends(running: Fleet, path: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(120):
            yield b" " * 2**18

    for large in (b" " * (30 * 2**20), pieces()):
        answer = await running.http.post(path, content=large)
        assert message(answer, path, 413).startswith("request body is larger than 1 MiB")


@pytest.mark.rule(178)
@pytest.mark.parametrize("path", PATHS)
async def test_an_encoding_that_the_route_lacks_is_a_415(running: Fleet, path: str) -> None:
    for encoding in ("gzip", "br", "deflate", "zstd, gzip", *(() if path in ZSTD_PATHS else ("zstd",))):
        answer = await running.http.post(path, content=b"\x1f\x8b", headers={"content-encoding": encoding})
        text = message(answer, path, 415)
        assert text == f"request bodies in {encoding} are not supported; send them uncompressed"


@pytest.mark.rule(178)
@pytest.mark.parametrize("path", ZSTD)
async def test_a_zstd_body_is_answered_as_the_decoded_one(running: Fleet, path: str) -> None:
    for model in ("tiny", "nope"):
        plain = json.dumps(body(path, model)).encode()
        padded = plain + b" " * (LIMIT - len(plain))
        for sent in (frame(plain), frame(plain[:9]) + frame(plain[9:]), frame(padded, window_log=23)):
            answer = await running.http.post(path, content=sent, headers={"content-encoding": "zstd"})
            assert answer.status_code == (await running.http.post(path, content=plain)).status_code
            assert answer.status_code not in (413, 415)
            assert "zstd" not in answer.text


@pytest.mark.rule(178)
@pytest.mark.parametrize("path", ZSTD)
async def test_a_zstd_body_in_http_chunks_is_decoded_as_it_arrives(running: Fleet, path: str) -> None:
    sent = frame(json.dumps(body(path, "nope")).encode())

    async def pieces(size: int) -> AsyncIterator[bytes]:
        for start in range(0, len(sent), size):
            yield sent[start : start + size]

    for size in (1, 20):
        answer = await running.http.post(path, content=pieces(size), headers={"content-encoding": "zstd"})
        assert "not found" in message(answer, path, 404)


@pytest.mark.rule(178)
@pytest.mark.parametrize("path", ZSTD)
async def test_a_bad_zstd_body_is_a_400_and_a_bomb_a_413(running: Fleet, path: str) -> None:
    whole = frame(json.dumps(body(path, "tiny")).encode())
    encoded = {"content-encoding": "zstd"}
    for bad in (b"{}", whole[:-5], whole + b"rest", frame(b" " * 10, window_log=24), frame(b"") * 2000):
        answer = await running.http.post(path, content=bad, headers=encoded)
        assert message(answer, path, 400).startswith("the zstd body ")
    for bomb in (frame(b" " * (LIMIT + 1)), frame(b" " * (200 * LIMIT), window_log=23), b"x" * (LIMIT + 1)):
        answer = await running.http.post(path, content=bomb, headers=encoded)
        assert message(answer, path, 413).startswith("request body is larger than 1 MiB")


@pytest.mark.parametrize("path", JSON_PATHS)
@pytest.mark.parametrize("sent", [b"", b"{", b"[]", b"\xff", b'"x"', b"{} {}", b"[" * 100_000])
async def test_a_body_that_is_no_object_is_a_400(running: Fleet, path: str, sent: bytes) -> None:
    assert message(await running.http.post(path, content=sent), path, 400)


@pytest.mark.parametrize("path", JSON_PATHS)
@pytest.mark.parametrize("model", [5, [], {}, True, None, "", " "])
async def test_a_model_that_is_no_name_is_a_400(running: Fleet, path: str, model: object) -> None:
    assert "model" in message(await running.http.post(path, json={**body(path, ""), "model": model}), path, 400)


@pytest.mark.parametrize("path", PATHS)
async def test_a_model_of_another_kind_is_a_400_that_no_worker_sees(running: Fleet, path: str) -> None:
    statuses = []
    for model, worker in (("tiny", running["a"]), ("vectors", running["e"])):
        before = worker.requests[path]
        answer = await running.http.post(path, **content(path, model))
        statuses.append(answer.status_code)
        if answer.status_code != 200:
            assert message(answer, path, 400)
            assert worker.requests[path] == before
    assert 400 in statuses or path in ("/tokenize", "/detokenize")


@pytest.mark.parametrize("path", PATHS)
async def test_an_unknown_model_is_a_404(running: Fleet, path: str) -> None:
    answer = await running.http.post(path, **content(path, "nope"))
    assert "not found" in message(answer, path, 404)


@pytest.mark.parametrize("path", PATHS)
async def test_a_model_without_a_worker_is_a_503_that_says_when_to_come_back(running: Fleet, path: str) -> None:
    answer = await running.http.post(path, **content(path, "out"))
    assert message(answer, path, 503)
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("path", PATHS)
async def test_a_query_changes_nothing(running: Fleet, path: str) -> None:
    for query in ("?beta=true", "?", "?a=b&beta=true&x=%2Fapi%2Fchat"):
        answer = await running.http.post(path + query, content=b"{")
        assert message(answer, path, 400)
        if path in JSON_PATHS:
            assert "not found" in message(await running.http.post(path + query, **content(path, "nope")), path, 404)


@pytest.mark.rule(36)
@pytest.mark.parametrize("path", PATHS)
async def test_other_methods_are_refused_as_by_ollama(running: Fleet, path: str) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        answer = await running.http.request(method, path)
        assert (answer.status_code, answer.text) == (405, "405 method not allowed")
        assert answer.headers["allow"] == "POST"
        assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ({}, "the request has no API key; "),
        ({"authorization": "annas-key"}, "the request has no API key; "),
        ({"x-api-key": "wrong"}, "the API key is wrong; "),
        ({"authorization": "Bearer wrong"}, "the API key is wrong; "),
    ],
)
async def test_a_missing_or_wrong_key_is_a_401(keyed: Fleet, path: str, headers: dict[str, str], problem: str) -> None:
    answer = await keyed.http.post(path, **content(path, "nope"), headers=headers)
    assert message(answer, path, 401).startswith(problem)
    if not speaks_anthropic(path):
        assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("path", [*PATHS, "/v1/models/nope", "/api/chat"])
@pytest.mark.parametrize("headers", [{"x-api-key": "annas-key"}, {"authorization": "Bearer annas-key"}])
async def test_a_key_is_accepted_in_either_header(keyed: Fleet, path: str, headers: dict[str, str]) -> None:
    method = "GET" if path.startswith("/v1/models") else "POST"
    request_id = f"{path}-{next(iter(headers))}".replace("/", ".")
    headers = {**headers, "x-request-id": request_id}
    answer = await keyed.http.request(method, path, **content(path, "nope"), headers=headers)
    assert answer.status_code == 404
    assert (await keyed.record(request_id))["client"] == "anna"


@pytest.mark.rule(181, 182)
@pytest.mark.parametrize("path", [*PATHS, "/v1/models", "/v1/models/org/name"])
async def test_a_preflight_is_answered_as_on_ollamas_routes(keyed: Fleet, path: str) -> None:
    asked = {
        "origin": "http://localhost:3000",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-helper-method,x-stainless-timeout",
    }
    answer = await keyed.http.options(path, headers=asked)
    usual = await keyed.http.options("/api/chat", headers=asked)
    assert (answer.status_code, answer.content) == (usual.status_code, usual.content) == (204, b"")
    cors = [name for name in usual.headers if name.startswith("access-control-") or name == "vary"]
    assert {name: answer.headers[name] for name in cors} == {name: usual.headers[name] for name in cors}
    refused = await keyed.http.post(path, content=b"{}", headers={"origin": "http://localhost:3000"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "http://localhost:3000"


@pytest.mark.parametrize("spelling", ["tiny", "tiny:latest", "tiny%3Alatest", "TINY"])
async def test_a_model_is_found_by_any_spelling(running: Fleet, spelling: str) -> None:
    for method in ("GET", "HEAD"):
        answer = await running.http.request(method, f"/v1/models/{spelling}")
        assert answer.status_code == 200
        assert answer.headers["x-request-id"]
    assert (await running.http.get(f"/v1/models/{spelling}?x=y")).json()["object"] == "model"


@pytest.mark.parametrize("path", [path for path in ("/v1/chat/completions", "/v1/messages") if path in PATHS])
async def test_a_stream_names_its_request_too(running: Fleet, path: str) -> None:
    sent = {**body(path, "tiny"), "stream": True}
    answer = await running.http.post(path, json=sent, headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers.get("request-id") == ("req_mine" if speaks_anthropic(path) else None)

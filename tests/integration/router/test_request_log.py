"""The request log of a whole router: every route, by the outcome of the request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.until import auntil
from tests.support.v1_requests import JSON_PATHS, PATHS
from tests.support.v1_requests import body as v1_body
from vllama_pool.config.api_keys import ApiKey, digest
from vllama_pool.router.server.dispatch import Dispatcher
from vllama_pool.workers.simulated.options import Options

pytestmark = pytest.mark.system

KEY = {"authorization": "Bearer annas-key"}
DIGEST = "sha256:" + "a" * 64
HELLO = [{"role": "user", "content": "hi"}]
FROM = {"from": "demo"}


@dataclass(frozen=True)
class Case:
    method: str
    path: str
    status: int
    level: str = "info"
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    says: dict[str, Any] = field(default_factory=dict)
    """Fields of the line."""


def inference() -> list[Case]:
    paths = ("/api/chat", "/api/generate", "/api/embed", "/api/embeddings")
    unknown = [Case("POST", path, 404, body={"model": "nope"}, says={"requested": "nope"}) for path in paths]
    unknown += [Case("POST", path, 404, body=v1_body(path, "nope"), says={"requested": "nope"}) for path in JSON_PATHS]
    bad = [Case("POST", path, 400, body=b"{") for path in (*paths, *PATHS)]
    return [
        Case("POST", "/api/chat", 200, body={"model": "demo", "messages": HELLO}, says={"outcome": "complete"}),
        Case("POST", "/api/chat", 200, body={"model": "demo", "messages": HELLO, "stream": False}),
        Case("POST", "/api/generate", 200, body={"model": "demo"}, says={"operation": "generate", "model": "demo"}),
        Case("POST", "/api/generate", 200, body={"model": "demo", "keep_alive": 0}),
        *unknown,
        *bad,
    ]


def changes() -> list[Case]:
    create, copy = {"model": "v", **FROM}, {"source": "v", "destination": "w"}
    made = {"requested": "v", "source": "demo", "client": "anna", "address": "127.0.0.1"}
    return [
        Case("POST", "/api/create", 200, body=create, says=made | {"outcome": "complete"}),
        Case("POST", "/api/create", 200, body={**create, "stream": False}, says=made),
        Case("POST", "/api/create", 200, body={"model": "v", "from": "nope"}, says={"outcome": "failed"}),
        Case("POST", "/api/create", 500, body={"model": "v", "from": "nope", "stream": False}),
        Case("POST", "/api/create", 400, body=b"{"),
        Case("POST", "/api/copy", 200, body=copy, says={"requested": "w", "source": "v"}),
        Case("POST", "/api/copy", 404, body={"source": "nope", "destination": "w"}, says={"source": "nope"}),
        Case("DELETE", "/api/delete", 200, body={"model": "w"}, says={"requested": "w"}),
        Case("DELETE", "/api/delete", 404, body={"model": "w"}, says={"requested": "w", "outcome": "refused"}),
        Case("DELETE", "/api/delete", 400, body=b"["),
        Case("POST", "/api/pull", 200, body={"model": "v"}, says={"requested": "v", "outcome": "complete"}),
        Case("POST", "/api/pull", 200, body={"model": "nope"}, says={"requested": "nope", "outcome": "failed"}),
        Case("POST", "/api/pull", 500, body={"model": "nope", "stream": False}),
        Case("POST", "/api/push", 501, body={"model": "v"}, says={"requested": "v"}),
        Case("POST", f"/api/blobs/{DIGEST}", 501, body=b"GGUF"),
        Case("HEAD", f"/api/blobs/{DIGEST}", 404),
        Case("POST", "/admin/drain", 404, body={"worker": "nope"}),
        Case("POST", "/api/signout", 401),
        Case("DELETE", "/api/user/keys/abc", 401),
    ]


def reads() -> list[Case]:
    paths = ("/", "/health", "/livez", "/readyz", "/api/version", "/api/tags")
    heads = [Case(method, path, 200, "debug") for path in paths for method in ("GET", "HEAD")]
    return [
        *heads,
        *(Case("GET", path, 200, "debug") for path in ("/api/ps", "/api/status", "/v1/models", "/v1/models/demo")),
        *(Case("HEAD", path, 200, "debug") for path in ("/v1/models", "/v1/models/demo")),
        *(Case("GET", path, 200, "debug") for path in ("/metrics", "/admin/workers", "/admin/routing")),
        *(Case("GET", path, 200, "debug") for path in ("/admin/decisions", "/admin/explain?model=demo")),
        Case("GET", "/api/experimental/model-recommendations", 200, "debug"),
        Case("POST", "/api/show", 200, "debug", {"model": "demo"}, says={"requested": "demo"}),
        Case("POST", "//api/./show", 200, "debug", {"model": "demo"}, says={"path": "/api/show"}),
        Case("POST", "/admin/explain", 200, "debug", {"model": "demo"}),
        Case("GET", "/api/tags/", 301, "debug"),
        Case("OPTIONS", "/api/chat", 204, "debug", headers={"origin": "http://localhost:3000"}),
        Case("POST", "/api/me", 401),
        Case("POST", "/api/show", 404, body={"model": "nope"}, says={"requested": "nope"}),
        Case("POST", "/api/show", 400, body=b"{"),
        Case("GET", "/v1/models/nope", 404, says={"requested": "nope"}),
    ]


def refused() -> list[Case]:
    chat = {"model": "demo", "messages": HELLO}
    none, wrong = {"authorization": ""}, {"authorization": "Bearer wrong"}
    return [
        Case("POST", "/api/chat", 401, body=chat, headers=none, says={"reason": "missing_key", "address": "127.0.0.1"}),
        Case("POST", "/api/create", 401, body={"model": "v", **FROM}, headers=wrong, says={"reason": "unknown_key"}),
        Case("GET", "/api/tags", 401, headers=none),
        Case("GET", "/api/tags", 403, headers={"host": "ai.example.com"}, says={"reason": "host"}),
        Case("HEAD", "/", 403, headers={"host": "ai.example.com"}),
        Case("GET", "/metrics", 403, headers={"x-forwarded-for": "1.2.3.4"}, says={"reason": "admin"}),
        Case("POST", "/api/chat", 403, body=chat, headers={"origin": "https://evil.com"}, says={"reason": "origin"}),
        Case("OPTIONS", "/api/chat", 403, headers={"origin": "https://evil.com"}, says={"reason": "origin"}),
        Case("DELETE", "/api/delete", 403, headers={"sec-fetch-site": "cross-site"}, says={"reason": "cross_site"}),
        Case("GET", "/api/nothing", 404, says={"path": "/api/nothing", "outcome": "refused"}),
        Case("GET", "/api/chat", 405, says={"method": "GET", "path": "/api/chat"}),
        Case("PUT", "/api/create", 405),
        *(Case("POST", path, 413, body=b" " * 3000) for path in ("/api/chat", "/api/show", "/api/create", "/api/push")),
        Case("POST", "/api/chat", 415, body=b"x", headers={"content-encoding": "gzip"}),
        *(Case("POST", f"/api/experimental/{name}", 403, body={}) for name in ("web_search", "web_fetch")),
    ]


CASES = [*inference(), *changes(), *reads(), *refused()]


@pytest.fixture(params=["info", "debug"])
async def running(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Fleet]:
    keys = (ApiKey("anna", digest("annas-key")),)
    workers = {"a": Options(model="demo", tokens_per_second=1000)}
    async with fleet(tmp_path, workers, api_keys=keys, log_level=request.param, body_limit=2000) as it:
        yield it


async def send(running: Fleet, number: int, case: Case) -> None:
    body = case.body if isinstance(case.body, bytes) or case.body is None else json.dumps(case.body).encode()
    headers = {**KEY, **case.headers, "x-request-id": f"case-{number}"}
    response = await running.http.request(case.method, running.url + case.path, content=body, headers=headers)
    assert response.status_code == case.status, (case, response.text)


async def finish(running: Fleet) -> list[dict[str, Any]]:
    """Send a last request and return all lines once it has its own."""
    await running.http.post("/api/generate", json={"model": "nope"}, headers={**KEY, "x-request-id": "last"})
    await running.record("last")
    return [line for line in running.records() if line["id"].startswith("case-")]


def expected(cases: Sequence[Case], debug: bool) -> list[tuple[int, str, str, int]]:
    return [
        (number, case.method, case.level, case.status)
        for number, case in enumerate(cases)
        if case.level == "info" or debug
    ]


async def test_every_change_and_refusal_has_one_line_and_reads_have_one_at_debug_level(
    running: Fleet, request: pytest.FixtureRequest
) -> None:
    for number, case in enumerate(CASES):
        await send(running, number, case)
    lines = await finish(running)
    found = [(int(line["id"][5:]), line["method"], line["level"], line["status"]) for line in lines]
    assert found == expected(CASES, "debug" in request.node.callspec.id)
    for line in lines:
        case = CASES[int(line["id"][5:])]
        assert {name: line.get(name) for name in case.says} == case.says, case
        assert line["total_ms"] > 0


async def test_every_route_is_in_the_table(running: Fleet) -> None:
    dispatcher = running.app.app
    assert isinstance(dispatcher, Dispatcher)
    paths = [case.path.replace("//api/./", "/api/").partition("?")[0] for case in CASES]
    for path, methods in dispatcher.paths:  # type: ignore[attr-defined]
        start = path.partition("{")[0]
        matching = [case for case, sent in zip(CASES, paths, strict=True) if sent == start or "{" in path]
        assert {case.method for case in matching} >= methods, path


async def test_a_client_that_leaves_in_the_middle_of_its_body_has_a_line(running: Fleet) -> None:
    host, port = running.url.removeprefix("http://").split(":")
    paths = ("/api/create", "/api/show", "/api/push", "/api/chat")
    for number, path in enumerate(paths):
        _, writer = await asyncio.open_connection(host, int(port))
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nx-request-id: case-{number}\r\n"
        writer.write(f"{head}authorization: {KEY['authorization']}\r\ncontent-length: 100\r\n\r\n{{".encode())
        await writer.drain()
        await asyncio.sleep(0)
        writer.close()

    def left() -> list[tuple[str, int, str]]:
        lines = [line for line in running.records() if line["id"].startswith("case-")]
        return sorted((line["path"], line["status"], line["outcome"]) for line in lines)

    await auntil(lambda: len(left()) == len(paths), 10, "a line of each")
    assert left() == sorted((path, 499, "client gone") for path in paths)


async def lines_of(running: Fleet, prefix: str) -> list[dict[str, Any]]:
    """Send a last request, and return the lines of the others with this id once it has its own."""
    await running.http.get("/api/nothing", headers={"x-request-id": "last"})
    await running.record("last")
    return [line for line in running.records() if line["id"].startswith(prefix)]


async def test_requests_that_no_worker_takes_have_one_line_each(tmp_path: Path) -> None:
    slow = Options(model="slow", tokens_per_second=2, answer_tokens=100, slots=1)
    gone = Options(model="gone")
    async with fleet(tmp_path, {"a": slow, "b": gone}, max_queue=0) as running:
        await running.workers["b"].drain()

        async def drained() -> bool:
            return (await running.states())["b"] == "draining"

        await auntil(drained, 10, "the state of b")
        body = {"model": "slow", "messages": HELLO}
        async with running.http.stream("POST", "/api/chat", json=body, headers={"x-request-id": "case-left"}) as first:
            await anext(first.aiter_lines())
            for name in ("slow", "gone"):
                sent = {"model": name, "prompt": "PROMPT"}
                headers = {"x-request-id": f"case-{name}"}
                assert (await running.http.post("/api/generate", json=sent, headers=headers)).status_code == 503
        await running.record("case-left")
        lines = {line["id"]: line for line in await lines_of(running, "case-")}
    assert len(lines) == 3
    assert lines["case-left"]["outcome"] == "client gone"
    for name in ("slow", "gone"):
        line = lines[f"case-{name}"]
        assert (line["status"], line["outcome"], line["model"]) == (503, "refused", name)
        assert "PROMPT" not in json.dumps(line)


async def test_no_secret_of_a_request_is_logged(running: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    secret = "hunter2"
    for number, (path, headers) in enumerate(
        [
            (f"/api/tags?api_key={secret}", {"authorization": f"Bearer {secret}"}),
            ("/api/tags", {"authorization": f"Basic {secret}"}),
            ("/api/tags", {"host": f"anna:{secret}@ai.example.com"}),
            ("/api/tags", {"origin": f"https://anna:{secret}@ai.example.com"}),
            ("/api/tags", {"x-api-key": secret, "authorization": "", "cookie": secret, "user-agent": secret}),
        ]
    ):
        answer = await running.http.get(path, headers={"x-request-id": f"case-{number}", **headers})
        assert answer.status_code in (401, 403)
    assert len(await lines_of(running, "case-")) == 5
    assert secret not in running.log.getvalue().decode()
    assert secret not in "".join(m for r, m in zip(caplog.records, caplog.messages, strict=True) if r.name != "httpx")


async def test_refusals_are_counted_by_reason(running: Fleet) -> None:
    for _ in range(3):
        await running.http.get("/api/tags", headers={"host": "ai.example.com"})
    await running.http.get("/api/tags")
    page = (await running.http.get("/metrics")).text
    assert 'vllama_refusals_total{reason="host"} 3.0' in page
    assert 'vllama_refusals_total{reason="missing_key"} 1.0' in page
    assert 'vllama_refusals_total{reason="origin"} 0.0' in page


async def test_connections_of_clients_are_shown(running: Fleet) -> None:
    page = (await running.http.get("/metrics")).text.splitlines()
    (line,) = [line for line in page if line.startswith("vllama_client_connections ")]
    assert float(line.split()[1]) >= 1
    assert 'vllama_client_connections_refused_total{limit="total"} 0.0' in page

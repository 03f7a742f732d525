"""A fleet that gets the recorded requests of tests/data/clients."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fleet.live import Fleet, fleet
from vllama_pool.workers.simulated.options import Options

DATA = Path(__file__).resolve().parents[2] / "data" / "clients"
FAST = {"tokens_per_second": 2000.0, "ttft": 0.01, "answer_tokens": 12, "max_model_len": 4096}
THINKER = Options(model="thinker", tool_calls=True, tool_parser=True, reasoning=True, per_request_metrics=True, **FAST)  # type: ignore[arg-type]
PLAIN = Options(model="plain", **FAST)  # type: ignore[arg-type]
EMBEDDER = Options(model="embedder", embedding=True)


class Replay:
    """Sends one client's recorded requests, by their names in its file."""

    def __init__(self, client: str, running: Fleet, http: httpx.AsyncClient) -> None:
        recording = json.loads((DATA / f"{client}.json").read_text())
        self._headers: dict[str, str] = recording["headers"]
        self._requests: dict[str, Any] = recording["requests"]
        self._running = running
        self._http = http

    async def __call__(self, name: str, model: str = "thinker:latest") -> httpx.Response:
        async with self.stream(name, model) as answer:
            await answer.aread()
        return answer

    @asynccontextmanager
    async def stream(self, name: str, model: str = "thinker:latest") -> AsyncIterator[httpx.Response]:
        """Yield the response once its head has arrived."""
        request = self._requests[name]
        body = None
        if "body" in request:
            text = json.dumps(request["body"]).replace("$model", model).replace("$embedder", "embedder:latest")
            body = text.encode()
        headers = {**self._headers, **request.get("headers", {})}
        async with self._http.stream(request["method"], request["path"], content=body, headers=headers) as answer:
            yield answer

    async def lines(self, name: str, model: str = "thinker:latest") -> list[dict[str, Any]]:
        """Return the objects of a streamed answer."""
        answer = await self(name, model)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.text.endswith("\n")
        return [json.loads(line) for line in answer.text.removesuffix("\n").split("\n")]

    async def object(self, name: str, model: str = "thinker:latest") -> Any:
        """Return the object of an answer that is not streamed."""
        answer = await self(name, model)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("application/json")
        return answer.json()

    def upstream_body(self, path: str = "/v1/chat/completions") -> dict[str, Any]:
        """Return the body of the last request that a worker received."""
        received = [
            request
            for name in self._running.workers
            for request in self._running[name].received
            if request.path == path
        ]
        body: dict[str, Any] = json.loads(received[-1].body)
        return body


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, {"a": THINKER, "b": PLAIN, "c": EMBEDDER}) as running:
        yield running


@pytest.fixture
async def replay(request: pytest.FixtureRequest, running: Fleet) -> AsyncIterator[Replay]:
    """Replays the client that the test module names, such as `CLIENT = "zed"`."""
    async with AsyncExitStack() as stack:
        http = httpx.AsyncClient(base_url=running.url, timeout=60, trust_env=False, verify=False)
        yield Replay(request.module.CLIENT, running, await stack.enter_async_context(http))

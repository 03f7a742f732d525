"""A worker that fails in the middle of a stream of /v1: the stream ends with an error in its own format."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.fleet.live import Fleet, fleet
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

pytestmark = pytest.mark.asyncio(loop_scope="module")
SLOW = Options(model="tiny", tokens_per_second=200, ttft=0.001, answer_tokens=40)
HELLO = [{"role": "user", "content": "hello"}]
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "hello", "max_tokens": 40},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": HELLO, "max_tokens": 40},
}
FAULTS = {
    "cut": faults.Cut(after_tokens=5, paths=tuple(REQUESTS)),
    "reset": faults.Cut(after_tokens=5, reset=True, paths=tuple(REQUESTS)),
    "an error event": faults.Error(after_tokens=5, paths=tuple(REQUESTS)),
    "a dead engine": faults.Die(after_tokens=5, paths=tuple(REQUESTS)),
}


@pytest_asyncio.fixture(loop_scope="module")
async def worker(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, {"only": SLOW}) as running:
        yield running


def parsed(body: str) -> list[tuple[str, Any]]:
    """Return the name and data of each event."""
    found = []
    for block in body.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        data = fields["data"]
        found.append((fields.get("event", ""), data if data == "[DONE]" else json.loads(data)))
    return found


@pytest.mark.rule(168)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("path", REQUESTS)
async def test_a_broken_stream_ends_with_an_error(worker: Fleet, path: str, fault: faults.Fault) -> None:
    worker["only"].set_faults([fault])
    response = await worker.http.post(path, json={"model": "tiny", "stream": True, **REQUESTS[path]})
    assert response.status_code == 200
    events = parsed(response.text)
    assert len(events) > 2
    name, last = events[-1]
    if path == "/v1/messages":
        assert (name, last["type"], last["error"]["type"]) == ("error", "error", "api_error")
        assert last["error"]["message"]
    elif path == "/v1/responses":
        assert (name, last["type"], last["response"]["status"]) == ("response.failed", "response.failed", "failed")
        assert last["response"]["error"]["message"]
        numbers = [data["sequence_number"] for _, data in events]
        assert numbers == sorted(set(numbers))
    else:
        assert set(last) == {"error"}
        assert {"message", "type", "param", "code"} <= set(last["error"])
        assert last["error"]["message"]

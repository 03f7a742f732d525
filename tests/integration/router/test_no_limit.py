"""num_predict without a limit, on a worker whose model limits its answers."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fleet.live import patient_settings, serving
from tests.support.tables import routing_table
from tests.support.until import auntil
from tests.support.vllm.simulated import SimulatedProcess
from vllama_pool.router.app import create_app

LIMIT = 5
LENGTH = 20
"""Tokens of an answer without a limit."""
QUESTIONS: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
    "generate": {"prompt": "hi"},
    "raw": {"prompt": "hi", "raw": True},
}


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A router in front of a worker that it does not describe."""
    (tmp_path / "generation_config.json").write_text(json.dumps({"max_new_tokens": LIMIT}))
    flags = ("--served-model-name", "limited", "--answer-tokens", str(LENGTH), "--tokens-per-second", "500")
    with SimulatedProcess(*flags, model=str(tmp_path)) as worker:
        table = routing_table(workers=[{"url": worker.url, "name": "theirs"}])
        settings = patient_settings(tmp_path)
        app = create_app(settings, table, log_stream=io.BytesIO())
        async with (
            serving(app) as url,
            httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=60) as http,
        ):

            async def lists_the_model() -> Any:
                return (await http.get("/api/tags")).json()["models"]

            await auntil(lists_the_model, 60, "the worker's model")
            yield http


async def length(http: httpx.AsyncClient, kind: str, options: dict[str, Any]) -> int:
    path = "/api/chat" if kind == "chat" else "/api/generate"
    response = await http.post(path, json={"model": "limited", "stream": False, "options": options, **QUESTIONS[kind]})
    count: int = response.json()["eval_count"]
    return count


@pytest.mark.rule(126)
async def test_no_limit_is_beyond_the_models_own(router: httpx.AsyncClient) -> None:
    assert await length(router, "chat", {}) == LIMIT
    for kind in QUESTIONS:
        for value in (-1, -2, 0, -7):
            assert await length(router, kind, {"num_predict": value}) >= LENGTH, (kind, value)
        assert await length(router, kind, {"num_predict": 3}) == 3

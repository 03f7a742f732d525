"""JSON schemas on a real vLLM that was started without our flags: xgrammar, and white space without end."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fleet.live import PATIENT, patient_settings, serving
from tests.support.tables import routing_table
from tests.support.until import auntil
from tests.support.vllm.schemas import answers
from tests.support.vllm.servers import ANSWER_TIMEOUT, VllmServer
from vllama_pool.router.app import create_app
from vllama_pool.router.protocol.ollama.blank_limit import MAX_BLANKS

Router = Callable[[VllmServer], AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def router(tmp_path: Path) -> Router:
    """A router over one server that has no agent."""

    @asynccontextmanager
    async def running(server: VllmServer) -> AsyncIterator[httpx.AsyncClient]:
        table = routing_table(workers=[{"url": server.url, "name": "theirs"}])
        app = create_app(patient_settings(tmp_path, **PATIENT), table, log_stream=io.BytesIO())
        async with (
            serving(app) as url,
            httpx.AsyncClient(base_url=url, trust_env=False, timeout=ANSWER_TIMEOUT) as http,
        ):

            async def is_listed() -> Any:
                return (await http.get("/api/tags")).json()["models"]

            await auntil(is_listed, 60, "the model to be listed")
            yield http

    return running


@pytest.mark.rule(57)
async def test_answers_under_schemas_of_pydantic_and_zod_have_only_declared_keys(
    router: Router, smollm2_vllm: VllmServer, record_property: Callable[[str, object], None]
) -> None:
    async with router(smollm2_vllm) as http:
        given = await answers(http, smollm2_vllm.model)
    for answer in given:
        answer.check()
    reasons = Counter(answer.done_reason for answer in given)
    record_property("figure", f"schemas on xgrammar: {dict(reasons)}")
    assert reasons["stop"] > 3


@pytest.mark.rule(57)
async def test_an_answer_that_goes_on_with_white_space_is_cut_off(router: Router, tiny_qwen3_vllm: VllmServer) -> None:
    body = {
        "model": tiny_qwen3_vllm.model,
        "prompt": "hello",
        "think": False,
        "stream": False,
        "format": {"type": "object", "properties": {"sunny": {"type": "boolean"}}, "required": ["sunny"]},
        "options": {"temperature": 0},
    }
    async with router(tiny_qwen3_vllm) as http:
        answer = (await http.post("/api/generate", json=body)).json()
    assert answer["done_reason"] == "length"
    assert len(answer["response"]) - len(answer["response"].rstrip()) >= MAX_BLANKS
    assert answer["eval_count"] < 500

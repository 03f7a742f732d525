"""Prompts that are too long for one real vLLM and fit into another one's context."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.support.entry_requests import GENERATED, Asked
from tests.support.fleet.live import PATIENT, fleet
from tests.support.operations import Request, is_whole
from tests.support.vllm.servers import ANSWER_TIMEOUT, Servers, Spec, VllmServer
from vllama_pool.config.routing.table import RoutingTable, parse

# The mark puts these tests into the servers' group: fixtures of the module cannot name them.
pytestmark = [
    pytest.mark.usefixtures("configured_vllm", "tiny_qwen3_vllm"),
    pytest.mark.asyncio(loop_scope="module"),
]

SMALL, LARGE = 256, 1024


def table(small: VllmServer, large: VllmServer) -> RoutingTable:
    return parse(
        f"""
models:
  falls: {{serve: "{small.model}", options: {{num_predict: 5}}, fallback: {{context: ["{large.model}"]}}}}
  both: {{serve: [{{model: "{small.model}"}}, {{model: "{large.model}", weight: 0}}], options: {{num_predict: 5}}}}
workers:
  - {{url: "{small.url}", name: small, slots: 8}}
  - {{url: "{large.url}", name: large, slots: 8}}
""".encode()
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asked(
    tmp_path_factory: pytest.TempPathFactory, servers: Servers, configured_spec: Spec, tiny_qwen3_spec: Spec
) -> AsyncIterator[Asked]:
    """One router for all tests, because each asks vLLM for its abilities."""
    both = table(servers.get(configured_spec), servers.get(tiny_qwen3_spec))
    async with fleet(tmp_path_factory.mktemp("router"), {}, table=both, **PATIENT) as running:
        running.http.timeout = httpx.Timeout(ANSWER_TIMEOUT)
        yield Asked(running)


def prompt(request: Request, text: str) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, value in request.fields.items():
        fields[name] = [{"role": "user", "content": text}] if name == "messages" else text
        if name == "max_tokens":
            fields[name] = value
    return fields


@pytest.mark.parametrize("request_", GENERATED, ids=map(str, GENERATED))
async def test_a_prompt_goes_where_it_fits_and_is_shortened_nowhere(asked: Asked, request_: Request) -> None:
    text = "hello " * 400
    response, record = await asked.ask(request_, "falls", **prompt(request_, text))
    assert is_whole(request_, response), response.text
    assert (record["worker"], record["attempts"], record["failures"]) == ("static/large", 2, ["ContextTooLong"])
    assert SMALL < record["prompt_tokens"] < LARGE
    response, record = await asked.ask(request_, "both", **prompt(request_, text))
    assert is_whole(request_, response), response.text
    assert record["worker"] == "static/large"
    assert SMALL < record["prompt_tokens"] < LARGE
    for nowhere in ("hello " * 3000, "hello " * 60_000):  # vLLM counts the characters of the second one only
        response, record = await asked.ask(request_, "falls", **prompt(request_, nowhere))
        assert record["worker"] == "static/large", record
        if request_.path.startswith("/api/"):
            assert is_whole(request_, response), response.text
        else:
            assert response.status_code == 400
            assert str(LARGE) in response.text

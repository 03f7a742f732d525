"""Settings of an entry of the routing file, over a real vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.support.entry_requests import (
    CALLERS,
    CHATS,
    GENERATED,
    Asked,
    after_a_call,
    limits_of,
    long,
    most,
    with_system,
    with_tools,
)
from tests.support.fleet.live import PATIENT, fleet
from tests.support.operations import Request, is_whole
from tests.support.until import auntil
from tests.support.vllm.servers import ANSWER_TIMEOUT, Servers, Spec, VllmServer, frozen
from vllama_pool.config.routing.table import RoutingTable, parse

# The mark puts these tests into the server's group: fixtures of the module cannot name it.
pytestmark = [pytest.mark.usefixtures("smollm2_vllm"), pytest.mark.asyncio(loop_scope="module")]

TEXT = "Answer in rhymes, and never mention the weather."
CHAT = GENERATED[0]


def table(server: VllmServer) -> RoutingTable:
    return parse(
        f"""
models:
  plain: {{serve: "{server.model}"}}
  told: {{serve: "{server.model}", system: "{TEXT}"}}
  brief: {{serve: "{server.model}", limits: {{output: 5}}}}
  small: {{serve: "{server.model}", limits: {{context: 64}}}}
  deaf: {{serve: "{server.model}", tools: ignore, options: {{num_predict: 5}}}}
  narrow: {{serve: "{server.model}", limits: {{concurrency: 1, queue: 1}}}}
  copied: {{serve: "{server.model}", shadow: {{model: brief, share: 1.0}}}}
workers:
  - {{url: "{server.url}", name: w, slots: 8}}
""".encode()
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asked(tmp_path_factory: pytest.TempPathFactory, servers: Servers, smollm2_spec: Spec) -> AsyncIterator[Asked]:
    """One router for all tests, because each asks vLLM for its abilities."""
    served = table(servers.get(smollm2_spec))
    async with fleet(tmp_path_factory.mktemp("router"), {}, table=served, **PATIENT) as running:
        running.http.timeout = httpx.Timeout(ANSWER_TIMEOUT)
        yield Asked(running)


@pytest.mark.parametrize("request_", GENERATED, ids=map(str, GENERATED))
async def test_answers_and_contexts_stay_within_the_entrys_limits(asked: Asked, request_: Request) -> None:
    for fields in limits_of(request_):
        response, record = await asked.ask(request_, "brief", **fields)
        assert is_whole(request_, response), (fields, response.text)
        assert 0 < record["completion_tokens"] <= 5, fields
    for fields in ({} if request_.path != "/v1/messages" else most(request_, 50), most(request_, 5000)):
        response, record = await asked.ask(request_, "small", **fields)
        assert is_whole(request_, response), (fields, response.text)
        assert record["prompt_tokens"] + record["completion_tokens"] <= 64, fields
    response, record = await asked.ask(request_, "small", **long(request_))
    if request_.path.startswith("/api/"):
        assert is_whole(request_, response), response.text
        assert 0 < record["prompt_tokens"] <= 64
    else:
        assert (response.status_code, "64" in response.json()["error"]["message"]) == (400, True)


@pytest.mark.parametrize("request_", CHATS, ids=map(str, CHATS))
async def test_the_entrys_system_text_is_used_if_the_request_has_none(asked: Asked, request_: Request) -> None:
    short = most(request_, 1)
    explicit = await asked.prompt(request_, "plain", **with_system(request_, TEXT), **short)
    assert await asked.prompt(request_, "told", **short) == explicit
    own = with_system(request_, "Be brief.")
    assert await asked.prompt(request_, "told", **own, **short) == await asked.prompt(request_, "plain", **own, **short)


@pytest.mark.parametrize("request_", CALLERS, ids=map(str, CALLERS))
async def test_ignored_tools_and_calls_of_earlier_turns_get_an_answer(asked: Asked, request_: Request) -> None:
    alone = await asked.prompt(request_, "deaf")

    async def are_dropped() -> bool:
        return await asked.prompt(request_, "deaf", **with_tools(request_)) == alone

    # vLLM's /v1/responses takes tools without a parser, until the router has detected that it has none.
    await auntil(are_dropped, 30, "tools to be dropped")
    told = {**with_tools(request_), **after_a_call(request_)}
    assert await asked.prompt(request_, "deaf", **told) > alone


async def test_no_more_requests_of_an_entry_are_in_progress_than_its_limit(
    asked: Asked, servers: Servers, smollm2_spec: Spec
) -> None:
    """The engine is frozen, so that the first request is in progress until two others are refused."""
    statuses: list[int] = []

    async def ask() -> None:
        response, _ = await asked.ask(CHAT, "narrow", options={"num_predict": 5})
        statuses.append(response.status_code)

    async with asyncio.TaskGroup() as tasks:
        with frozen(servers.get(smollm2_spec, own=True).engine()):
            for _ in range(4):
                tasks.create_task(ask())
            await auntil(lambda: len(statuses) >= 2, 60, "two requests to be refused")
    assert statuses == [503, 503, 200, 200]


async def test_copies_are_answered_with_the_settings_of_their_own_entry(asked: Asked) -> None:
    response, record = await asked.ask(CHAT, "copied", options={"num_predict": 20})
    assert is_whole(CHAT, response)
    assert record["completion_tokens"] > 5

    async def is_counted() -> bool:
        page = (await asked.running.http.get("/metrics")).text
        return 'vllama_shadow_tokens_total{kind="completion",model="copied",target="brief"} 5.0\n' in page

    await auntil(is_counted, 30, "the copy to end")

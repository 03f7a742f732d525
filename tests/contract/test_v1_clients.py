"""Scenarios of clients of OpenAI's and Anthropic's API, on a router with simulated workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from tests.support.clients.anthropic_scenarios import AnthropicScenarioTests
from tests.support.clients.checks import GREETING, OPTIONS
from tests.support.clients.fleets import (
    EMBEDDER,
    SLOW,
    THINKER,
    ChatFleet,
    SlowFleet,
    simulated_chat,
    simulated_slow,
)
from tests.support.clients.openai_scenarios import OpenAIScenarioTests, ResponsesScenarioTests
from tests.support.clients.stock_clients import StockClient, client, started
from tests.support.clients.v1_scenarios import V1ScenarioTests, api, for_v1_clients_with, raised_by
from tests.support.fleet.live import Fleet, fleet
from tests.support.tables import routing_table
from tests.support.vllm.weather_tool import TOOL
from vllama_pool.config.api_keys import ApiKey, digest
from vllama_pool.workers.simulated.faults import INFERENCE, Error, Status
from vllama_pool.workers.simulated.options import Options

__all__ = ["client", "started"]
pytestmark = [pytest.mark.clients, pytest.mark.asyncio(loop_scope="module")]

WHISPER = Options(model="whisper", transcription=True, tokens_per_second=2000, ttft=0.01, answer_tokens=8)
PATHS = (*INFERENCE, "/v1/messages")
FAILING = Options(
    model="failing",
    tokens_per_second=2000,
    ttft=0.01,
    faults=(
        Status(status=429, marker="too many", paths=PATHS),
        Status(status=500, marker="fail", paths=PATHS),
        Error(after_tokens=4, marker="break", paths=PATHS),
    ),
)
AWAY = routing_table(models={"away": {"serve": "not-there"}})
PARALLEL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "openai": (
        {"choice": "auto", "options": OPTIONS},
        {"choice": "auto", "options": {**OPTIONS, "parallel_tool_calls": False}},
    ),
    "anthropic": (
        {"choice": {"type": "auto"}, "options": OPTIONS},
        {"choice": {"type": "auto", "disable_parallel_tool_use": True}, "options": OPTIONS},
    ),
}
"""Arguments of `tool_choice` with and without parallel calls, by the API's name."""
ERRORS = [("too many", "RateLimitError", 429), ("fail", "InternalServerError", 500)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    workers = {"a": THINKER, "b": THINKER, "c": EMBEDDER, "d": SLOW, "e": FAILING, "f": WHISPER}
    async with fleet(tmp_path_factory.mktemp("state"), workers, table=AWAY) as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    keys = (ApiKey("anna", digest("annas-key")),)
    async with fleet(tmp_path_factory.mktemp("keyed"), {"a": THINKER}, api_keys=keys, wait=False) as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def limited(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """Anna may use the thinker only. "nope" is served, but not to her."""
    table = routing_table(keys={"anna": {"sha256": digest("annas-key").hex(), "models": ["thinker"]}})
    workers = {"a": THINKER, "b": replace(THINKER, model="nope")}
    async with fleet(tmp_path_factory.mktemp("limited"), workers, table=table) as one:
        yield one


@pytest.fixture
def chat_fleet(running: Fleet) -> ChatFleet:
    return simulated_chat(running.url)


@pytest.fixture
def slow_fleet(running: Fleet) -> SlowFleet:
    return simulated_slow(running.url, running["d"].url)


class TestSimulated(V1ScenarioTests):
    @for_v1_clients_with("tool_choice")
    async def test_parallel_tool_calls_can_be_turned_off(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        """A simulated worker calls a tool once per mention of the weather."""
        both = {"question": "the weather in Paris, and the weather in Rome", "tools": [TOOL]}
        call = {"name": "get_weather", "arguments": chat_fleet.tool_arguments}
        parallel, single = PARALLEL[api(client)]
        result = await client.run("tool_choice", chat_fleet.at, **both, **parallel)
        assert result["whole"] == result["streamed"] == [call, call]
        assert len(set(result["ids"])) == 4
        result = await client.run("tool_choice", chat_fleet.at, **both, **single)
        assert result["whole"] == result["streamed"] == [call]


class TestSimulatedOpenAI(OpenAIScenarioTests):
    @for_v1_clients_with("transcribe")
    async def test_audio_is_transcribed_in_each_format(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        texts = await client.run("transcribe", {**chat_fleet.at, "model": "whisper"})
        assert texts["json"] == texts["text"].strip() == texts["verbose_json"] != ""

    @for_v1_clients_with("transcribe")
    async def test_audio_for_a_chat_model_raises_bad_request(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        assert (await raised_by(client, "transcribe", chat_fleet.at)).kind == "BadRequestError"


class TestSimulatedResponses(ResponsesScenarioTests): ...


class TestSimulatedAnthropic(AnthropicScenarioTests):
    @for_v1_clients_with("budget")
    async def test_a_budget_for_thoughts_is_accepted(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        result = await client.run("budget", chat_fleet.at, question=GREETING, tokens=1024, options=OPTIONS)
        assert chat_fleet.thoughts in result["thinking"]
        assert chat_fleet.answer_prefix in result["text"]


class TestErrors:
    @for_v1_clients_with("say")
    async def test_a_wrong_key_raises_an_authentication_error(self, client: StockClient, keyed: Fleet) -> None:
        at = {"url": keyed.url, "model": "thinker", "embedder": "embedder"}
        error = await raised_by(client, "say", {**at, "key": "wrong"}, question="hello", streamed=False)
        assert (error.kind, error.status) == ("AuthenticationError", 401)
        assert await client.run("list", {**at, "key": "annas-key"}) is not None

    @for_v1_clients_with("unknown_model")
    async def test_a_model_that_the_key_may_not_use_raises_the_error_of_an_unknown_one(
        self, client: StockClient, limited: Fleet, chat_fleet: ChatFleet
    ) -> None:
        at = {"url": limited.url, "model": "thinker", "embedder": "embedder", "key": "annas-key"}
        hidden, unknown = [await raised_by(client, "unknown_model", each) for each in (at, chat_fleet.at)]
        assert (hidden.kind, hidden.status) == (unknown.kind, unknown.status)
        if "list" in client.kind.supported:
            assert await client.run("list", at) == ["thinker:latest"]

    @pytest.mark.parametrize(("fault", "kind", "status"), ERRORS, ids=[kind for _, kind, _ in ERRORS])
    @for_v1_clients_with("say")
    async def test_an_error_of_the_worker_raises_its_class(
        self, client: StockClient, chat_fleet: ChatFleet, fault: str, kind: str, status: int
    ) -> None:
        at = {**chat_fleet.at, "model": "failing"}
        for streamed in (False, True):
            error = await raised_by(client, "say", at, question=f"please {fault}", streamed=streamed)
            assert (error.kind, error.status) == (kind, status)

    @for_v1_clients_with("say")
    async def test_a_model_without_a_worker_raises_a_server_error(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        error = await raised_by(client, "say", {**chat_fleet.at, "model": "away"}, question="hello", streamed=False)
        assert error.kind in ("InternalServerError", "ServiceUnavailableError")
        assert error.status == 503

    @for_v1_clients_with("say")
    async def test_a_stream_that_breaks_off_raises(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        at = {**chat_fleet.at, "model": "failing"}
        error = await raised_by(client, "say", at, question="please break", streamed=True)
        assert error.kind in ("APIError", "APIStatusError", "InternalServerError", "AnthropicError")

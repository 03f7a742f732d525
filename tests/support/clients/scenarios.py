"""Scenarios of clients written for Ollama, for every client and any fleet.

A test module derives a class from ScenarioTests and defines the fixtures `chat_fleet`, `slow_fleet` and `schema_model`,
which is a `ChatFleet.at` whose model follows a schema.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.support.clients.stock_clients import KINDS, SCENARIOS, ClientRaised, StockClient
from tests.support.until import auntil
from tests.support.vllm.weather_tool import QUESTION as WEATHER
from tests.support.vllm.weather_tool import TOOL

GREETING = "hello"
SCHEMA = {
    "type": "object",
    "properties": {"sky": {"enum": ["blue", "grey"]}, "clouds": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["sky", "clouds"],
    "additionalProperties": False,
}
"""Every value is bounded, so that the smallest model ends its answer."""
OPTIONS = {"temperature": 0.0}


@dataclass(frozen=True)
class ChatFleet:
    """A fleet, and the answers of its models."""

    url: str
    model: str
    """Thinks, calls tools, and is deterministic at temperature 0."""
    embedder: str
    answer_prefix: str
    thoughts: str
    """Part of its thoughts."""
    tool_arguments: dict[str, str]
    context: int

    @property
    def at(self) -> dict[str, str]:
        return {"url": self.url, "model": self.model, "embedder": self.embedder}


@dataclass(frozen=True)
class SlowFleet:
    """A fleet whose model takes seconds to answer."""

    url: str
    model: str
    question: str
    worker: str
    """Base URL of the only worker."""
    answer_tokens: int

    @property
    def at(self) -> dict[str, str]:
        return {"url": self.url, "model": self.model, "embedder": self.model}

    async def unfinished(self) -> int:
        """Requests that the worker runs or queues."""
        return await self._total(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$")

    async def generated_tokens(self) -> int:
        return await self._total(r"^vllm:generation_tokens_total\{.*\} (\S+)$")

    async def _total(self, pattern: str) -> int:
        async with httpx.AsyncClient(trust_env=False) as http:
            page = (await http.get(f"{self.worker}/metrics")).text
        values = re.findall(pattern, page, re.MULTILINE)
        assert values, f"no {pattern}"
        return sum(int(float(value)) for value in values)


@pytest.fixture(scope="session")
def started() -> Iterator[dict[str, StockClient]]:
    """Running client processes by name; started on demand."""
    clients: dict[str, StockClient] = {}
    yield clients
    for client in clients.values():
        client.stop()


@pytest.fixture
def client(request: pytest.FixtureRequest, started: dict[str, StockClient]) -> StockClient:
    kind = request.param
    if kind.name not in started:
        started[kind.name] = StockClient(kind)
    return started[kind.name]


def for_clients_with(*scenarios: str) -> pytest.MarkDecorator:
    able = [kind for kind in KINDS if not set(scenarios) & set(kind.unsupported)]
    return pytest.mark.parametrize("client", able, indirect=True, ids=[kind.name for kind in able])


def check_answer(chat_fleet: ChatFleet, result: dict[str, Any]) -> None:
    assert chat_fleet.answer_prefix in result["text"]
    assert result["reason"] in ("stop", None)
    assert result["counts"] is None or min(result["counts"]) > 0


class ScenarioTests:
    @for_clients_with()
    def test_a_client_has_every_scenario_that_it_supports(
        self, client: StockClient, record_property: Callable[[str, object], None]
    ) -> None:
        scenarios, unsupported = client.scenarios(), client.kind.unsupported
        assert scenarios == SCENARIOS - set(unsupported)
        missing = ", ".join(f"{name} ({reason})" for name, reason in unsupported.items())
        record_property("figure", f"{client.kind.name}: {len(scenarios)} scenarios; without {missing or 'exception'}")

    @for_clients_with("chat", "chat_stream")
    async def test_a_chat_has_the_same_text_streamed_and_whole(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        whole = await client.run("chat", chat_fleet.at, question=GREETING, options=OPTIONS)
        check_answer(chat_fleet, whole)
        streamed = await client.run("chat_stream", chat_fleet.at, question=GREETING, options=OPTIONS)
        check_answer(chat_fleet, streamed)
        assert streamed["parts"] > 2
        assert streamed["text"] == whole["text"]

    @for_clients_with("generate", "generate_stream")
    async def test_a_generated_text_is_the_same_streamed_and_whole(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        whole = await client.run("generate", chat_fleet.at, question=GREETING, options=OPTIONS)
        check_answer(chat_fleet, whole)
        streamed = await client.run("generate_stream", chat_fleet.at, question=GREETING, options=OPTIONS)
        check_answer(chat_fleet, streamed)
        assert streamed["parts"] > 2
        assert streamed["text"] == whole["text"]

    @pytest.mark.parametrize("scenario", ["tools", "tools_stream"])
    @for_clients_with("tools", "tools_stream")
    async def test_a_tool_is_called_and_its_result_is_accepted(
        self, client: StockClient, chat_fleet: ChatFleet, scenario: str
    ) -> None:
        arguments = {"question": WEATHER, "tools": [TOOL], "outcome": "22 degrees", "options": OPTIONS}
        result = await client.run(scenario, chat_fleet.at, **arguments)
        assert result["calls"] == [{"name": "get_weather", "arguments": chat_fleet.tool_arguments}]
        assert isinstance(result["text"], str)

    @for_clients_with("format")
    async def test_an_answer_follows_a_schema(self, client: StockClient, schema_model: dict[str, str]) -> None:
        arguments = {"question": "What colour is the sky, and how many clouds are there?", "schema": SCHEMA}
        answer = json.loads(await client.run("format", schema_model, **arguments, options=OPTIONS))
        assert set(answer) == {"sky", "clouds"}
        assert answer["sky"] in ("blue", "grey")
        assert answer["clouds"] in range(1, 10)

    @for_clients_with("typed_format")
    async def test_an_answer_parses_as_a_type_of_pydantic_or_zod(
        self, client: StockClient, schema_model: dict[str, str]
    ) -> None:
        question = "What colours does the sky have, and how strong is the wind?"
        result = await client.run("typed_format", schema_model, question=question, options=OPTIONS)
        assert set(json.loads(result["text"])) <= {"sky", "colours", "wind", "note", "gusts"}
        assert result["parsed"]["wind"]["speed"] in range(100)

    @pytest.mark.parametrize("scenario", ["thinking", "thinking_stream"])
    @for_clients_with("thinking", "thinking_stream")
    async def test_thinking_can_be_turned_on_and_off(
        self, client: StockClient, chat_fleet: ChatFleet, scenario: str
    ) -> None:
        result = await client.run(scenario, chat_fleet.at, question=GREETING, on=True, options=OPTIONS)
        assert chat_fleet.thoughts in result["thinking"]
        assert chat_fleet.answer_prefix in result["text"]
        result = await client.run(scenario, chat_fleet.at, question=GREETING, on=False, options=OPTIONS)
        assert result["thinking"] == ""
        assert result["text"].startswith(chat_fleet.answer_prefix)

    @for_clients_with("embed")
    async def test_embeddings_are_normalised_and_in_input_order(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        texts = ["why is the sky blue", "hello", "why is the sky blue"]
        first, second, third = await client.run("embed", chat_fleet.at, texts=texts)
        assert first == pytest.approx(third, abs=1e-3)
        assert second != pytest.approx(first, abs=1e-2)
        assert [math.hypot(*vector) for vector in (first, second)] == pytest.approx([1, 1], abs=1e-4)

    @for_clients_with("list")
    async def test_the_model_list_contains_the_served_model(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        listed = {name.removesuffix(":latest") for name in await client.run("list", chat_fleet.at)}
        assert chat_fleet.model in listed

    @for_clients_with("show")
    async def test_show_reports_context_length_and_capabilities(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        result = await client.run("show", chat_fleet.at)
        assert result["context"] == chat_fleet.context
        assert {"completion", "tools", "thinking"} <= set(
            result.get("capabilities", ["completion", "tools", "thinking"])
        )

    @for_clients_with("ps")
    async def test_ps_reports_expiry_and_size(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        loaded = {model["name"].removesuffix(":latest"): model for model in await client.run("ps", chat_fleet.at)}
        assert loaded[chat_fleet.model]["expires"] > time.time()
        assert loaded[chat_fleet.model]["size"] > 0

    @for_clients_with("pull")
    async def test_pulling_a_served_model_succeeds(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        whole, *parts = await client.run("pull", chat_fleet.at)
        assert whole == parts[-1] == "success"
        assert parts[0] == "pulling manifest"

    @for_clients_with("create_copy_delete")
    async def test_a_model_is_created_copied_used_and_deleted(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        result = await client.run(
            "create_copy_delete", chat_fleet.at, name=f"by-{client.kind.name}", system="Be brief."
        )
        assert result["statuses"] == ["success"] * 4
        assert "Be brief." in result["modelfile"]
        assert chat_fleet.answer_prefix in result["text"]

    @for_clients_with("unknown_model")
    async def test_an_unknown_model_raises_with_status_404(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        with pytest.raises(ClientRaised) as raised:
            await client.run("unknown_model", chat_fleet.at)
        assert client.kind.raises in str(raised.value)
        assert raised.value.status == 404

    @for_clients_with("concurrent")
    async def test_sixteen_concurrent_chats_succeed(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        result = await client.run("concurrent", chat_fleet.at, count=16, question=GREETING, options=OPTIONS)
        assert len(result) == 16
        assert all(chat_fleet.answer_prefix in text for text in result)

    @for_clients_with("open_stream", "close_stream")
    async def test_closing_a_stream_early_frees_the_worker(self, client: StockClient, slow_fleet: SlowFleet) -> None:
        async def is_free() -> bool:
            return await slow_fleet.unfinished() == 0

        before = await slow_fleet.generated_tokens()
        start = time.monotonic()
        done = await client.run("open_stream", slow_fleet.at, question=slow_fleet.question, options=OPTIONS)
        assert not done
        unfinished = await slow_fleet.unfinished()
        assert unfinished == 1, f"{time.monotonic() - start:.1f} s after the request; {client.log()}"
        await client.run("close_stream", slow_fleet.at)
        await auntil(is_free, 1.0, "the worker to be free")
        generated = await slow_fleet.generated_tokens() - before
        message = f"the answer ended by itself, {time.monotonic() - start:.1f} s after the request; {client.log()}"
        assert generated < slow_fleet.answer_tokens / 2, message

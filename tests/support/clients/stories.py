"""What every client written for Ollama can do with a fleet, told once for all clients and all fleets.

A test module inherits from Stories and has three fixtures: `stage` and `long_stage`, routers with workers behind them,
and `writer`, which says where a model is that keeps a schema (`Stage.at`).
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

from tests.support.clients.stock_clients import KINDS, STORIES, StockClient, Told
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
"""Closed: nothing in it is without bounds, so that the smallest model comes to an end."""
OPTIONS = {"temperature": 0.0}


@dataclass(frozen=True)
class Stage:
    """A fleet, and what its models answer."""

    url: str
    model: str
    """Thinks, calls tools, and says the same every time at temperature 0."""
    embedder: str
    says: str
    """What its answers begin with, the thinking aside."""
    thinks: str
    """What its thoughts have in them."""
    arguments: dict[str, str]
    """With which it calls the tool."""
    context: int

    @property
    def at(self) -> dict[str, str]:
        return {"url": self.url, "model": self.model, "embedder": self.embedder}


@dataclass(frozen=True)
class LongStage:
    """A fleet whose model takes seconds to answer."""

    url: str
    model: str
    question: str
    worker: str
    """Base URL of the only worker."""
    answer: int
    """Tokens of the whole answer."""

    @property
    def at(self) -> dict[str, str]:
        return {"url": self.url, "model": self.model, "embedder": self.model}

    async def busy(self) -> int:
        """Requests that the worker runs, and those that wait in it."""
        return await self._total(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$")

    async def made(self) -> int:
        """Tokens so far."""
        return await self._total(r"^vllm:generation_tokens_total\{.*\} (\S+)$")

    async def _total(self, pattern: str) -> int:
        async with httpx.AsyncClient(trust_env=False) as http:
            page = (await http.get(f"{self.worker}/metrics")).text
        found = re.findall(pattern, page, re.MULTILINE)
        assert found, f"no {pattern}"
        return sum(int(float(value)) for value in found)


@pytest.fixture(scope="session")
def started() -> Iterator[dict[str, StockClient]]:
    """The clients' processes, by name, as far as tests have asked for them."""
    made: dict[str, StockClient] = {}
    yield made
    for client in made.values():
        client.stop()


@pytest.fixture
def client(request: pytest.FixtureRequest, started: dict[str, StockClient]) -> StockClient:
    kind = request.param
    if kind.name not in started:
        started[kind.name] = StockClient(kind)
    return started[kind.name]


def told_by_all(*stories: str) -> pytest.MarkDecorator:
    """For every client that has these stories."""
    able = [kind for kind in KINDS if not set(stories) & set(kind.lacks)]
    return pytest.mark.parametrize("client", able, indirect=True, ids=[kind.name for kind in able])


def check_answer(stage: Stage, told: dict[str, Any]) -> None:
    assert stage.says in told["text"]
    assert told["reason"] in ("stop", None)
    assert told["counts"] is None or min(told["counts"]) > 0


class Stories:
    """Tests of each client."""

    @told_by_all()
    def test_a_client_tells_all_but_what_it_lacks(
        self, client: StockClient, record_property: Callable[[str, object], None]
    ) -> None:
        told, lacks = client.offers(), client.kind.lacks
        assert told == STORIES - set(lacks)
        left_out = ", ".join(f"{story} ({why})" for story, why in lacks.items())
        record_property("figure", f"{client.kind.name} tells {len(told)} stories; not {left_out or 'one is left out'}")

    @told_by_all("chat", "chat_stream")
    async def test_chat_both_ways(self, client: StockClient, stage: Stage) -> None:
        whole = await client.tell("chat", stage.at, question=GREETING, options=OPTIONS)
        check_answer(stage, whole)
        streamed = await client.tell("chat_stream", stage.at, question=GREETING, options=OPTIONS)
        check_answer(stage, streamed)
        assert streamed["parts"] > 2
        assert streamed["text"] == whole["text"]

    @told_by_all("generate", "generate_stream")
    async def test_generate_both_ways(self, client: StockClient, stage: Stage) -> None:
        whole = await client.tell("generate", stage.at, question=GREETING, options=OPTIONS)
        check_answer(stage, whole)
        streamed = await client.tell("generate_stream", stage.at, question=GREETING, options=OPTIONS)
        check_answer(stage, streamed)
        assert streamed["parts"] > 2
        assert streamed["text"] == whole["text"]

    @pytest.mark.parametrize("story", ["tools", "tools_stream"])
    @told_by_all("tools", "tools_stream")
    async def test_a_tool_is_called_and_its_result_is_taken(
        self, client: StockClient, stage: Stage, story: str
    ) -> None:
        given = {"question": WEATHER, "tools": [TOOL], "outcome": "22 degrees", "options": OPTIONS}
        told = await client.tell(story, stage.at, **given)
        assert told["calls"] == [{"name": "get_weather", "arguments": stage.arguments}]
        assert isinstance(told["text"], str)

    @told_by_all("format")
    async def test_an_answer_keeps_to_a_schema(self, client: StockClient, writer: dict[str, str]) -> None:
        given = {"question": "What colour is the sky, and how many clouds are there?", "schema": SCHEMA}
        made = json.loads(await client.tell("format", writer, **given, options=OPTIONS))
        assert set(made) == {"sky", "clouds"}
        assert made["sky"] in ("blue", "grey")
        assert made["clouds"] in range(1, 10)

    @pytest.mark.parametrize("story", ["thinking", "thinking_stream"])
    @told_by_all("thinking", "thinking_stream")
    async def test_thinking_on_and_off(self, client: StockClient, stage: Stage, story: str) -> None:
        told = await client.tell(story, stage.at, question=GREETING, on=True, options=OPTIONS)
        assert stage.thinks in told["thinking"]
        assert stage.says in told["text"]
        told = await client.tell(story, stage.at, question=GREETING, on=False, options=OPTIONS)
        assert told["thinking"] == ""
        assert told["text"].startswith(stage.says)

    @told_by_all("embed")
    async def test_embeddings_come_in_order_and_normalised(self, client: StockClient, stage: Stage) -> None:
        texts = ["why is the sky blue", "hello", "why is the sky blue"]
        first, second, third = await client.tell("embed", stage.at, texts=texts)
        assert first == pytest.approx(third, abs=1e-3)
        assert second != pytest.approx(first, abs=1e-2)
        assert [math.hypot(*vector) for vector in (first, second)] == pytest.approx([1, 1], abs=1e-4)

    @told_by_all("list")
    async def test_list(self, client: StockClient, stage: Stage) -> None:
        listed = {name.removesuffix(":latest") for name in await client.tell("list", stage.at)}
        assert stage.model in listed

    @told_by_all("show")
    async def test_show(self, client: StockClient, stage: Stage) -> None:
        told = await client.tell("show", stage.at)
        assert told["context"] == stage.context
        assert {"completion", "tools", "thinking"} <= set(told.get("capabilities", ["completion", "tools", "thinking"]))

    @told_by_all("ps")
    async def test_ps(self, client: StockClient, stage: Stage) -> None:
        loaded = {model["name"].removesuffix(":latest"): model for model in await client.tell("ps", stage.at)}
        assert loaded[stage.model]["expires"] > time.time()
        assert loaded[stage.model]["size"] > 0

    @told_by_all("pull")
    async def test_a_pull_of_what_is_there_succeeds(self, client: StockClient, stage: Stage) -> None:
        whole, *parts = await client.tell("pull", stage.at)
        assert whole == parts[-1] == "success"
        assert parts[0] == "pulling manifest"

    @told_by_all("make")
    async def test_a_model_is_made_copied_and_deleted(self, client: StockClient, stage: Stage) -> None:
        told = await client.tell("make", stage.at, name=f"made-with-{client.kind.name}", system="Be brief.")
        assert told["statuses"] == ["success"] * 4
        assert "Be brief." in told["modelfile"]
        assert stage.says in told["text"]

    @told_by_all("unknown")
    async def test_an_unknown_model_raises(self, client: StockClient, stage: Stage) -> None:
        with pytest.raises(Told) as raised:
            await client.tell("unknown", stage.at)
        assert client.kind.raises in str(raised.value)
        assert raised.value.status == 404

    @told_by_all("at_once")
    async def test_sixteen_at_once(self, client: StockClient, stage: Stage) -> None:
        told = await client.tell("at_once", stage.at, count=16, question=GREETING, options=OPTIONS)
        assert len(told) == 16
        assert all(stage.says in text for text in told)

    @told_by_all("begin", "leave")
    async def test_leaving_in_mid_stream_frees_the_worker(self, client: StockClient, long_stage: LongStage) -> None:
        async def is_free() -> bool:
            return await long_stage.busy() == 0

        before = await long_stage.made()
        asked = time.monotonic()
        done = await client.tell("begin", long_stage.at, question=long_stage.question, options=OPTIONS)
        assert not done
        busy = await long_stage.busy()
        assert busy == 1, f"{time.monotonic() - asked:.1f} s after it was asked; {client.log()}"
        await client.tell("leave", long_stage.at)
        await auntil(is_free, 1.0, "the worker to be free")
        made = await long_stage.made() - before
        why = f"the answer ended by itself, {time.monotonic() - asked:.1f} s after it was asked for; {client.log()}"
        assert made < long_stage.answer / 2, why

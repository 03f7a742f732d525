"""Checks that the scenarios of all APIs share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.clients.fleets import ChatFleet, SlowFleet
from tests.support.clients.stock_clients import StockClient
from tests.support.vllm.weather_tool import QUESTION as WEATHER
from tests.support.vllm.weather_tool import TOOL

GREETING = "hello"
OPTIONS = {"temperature": 0.0}


def check_answer(chat_fleet: ChatFleet, result: dict[str, Any]) -> None:
    assert chat_fleet.answer_prefix in result["text"]
    assert result["reason"] in ("stop", "end_turn", None)
    assert result["counts"] is None or min(result["counts"]) > 0


def check_scenarios(client: StockClient, record_property: Callable[[str, object], None]) -> None:
    scenarios = client.scenarios()
    assert scenarios == client.kind.supported
    missing = ", ".join(f"{name} ({reason})" for name, reason in client.kind.unsupported.items())
    record_property("figure", f"{client.kind.name}: {len(scenarios)} scenarios; without {missing or 'exception'}")


async def check_whole_and_streamed(client: StockClient, chat_fleet: ChatFleet, whole: str, streamed: str) -> None:
    """The scenarios `whole` and `streamed` give the same text."""
    first = await client.run(whole, chat_fleet.at, question=GREETING, options=OPTIONS)
    check_answer(chat_fleet, first)
    second = await client.run(streamed, chat_fleet.at, question=GREETING, options=OPTIONS)
    check_answer(chat_fleet, second)
    assert second["parts"] >= chat_fleet.least_parts
    assert second["text"] == first["text"]


async def check_tool_round_trip(client: StockClient, chat_fleet: ChatFleet, scenario: str, **more: str) -> None:
    arguments = {"question": WEATHER, "tools": [TOOL], "outcome": "22 degrees", "options": OPTIONS}
    result = await client.run(scenario, {**chat_fleet.at, **more}, **arguments)
    assert result["calls"] == [{"name": "get_weather", "arguments": chat_fleet.tool_arguments}]
    assert result.get("reason", "tool_calls") in ("tool_calls", "tool-calls", "tool_use")
    assert isinstance(result["text"], str)


async def check_thinking_on_and_off(client: StockClient, chat_fleet: ChatFleet, scenario: str) -> None:
    result = await client.run(scenario, chat_fleet.at, question=GREETING, on=True, options=OPTIONS)
    assert chat_fleet.thoughts in result["thinking"]
    assert chat_fleet.answer_prefix in result["text"]
    result = await client.run(scenario, chat_fleet.at, question=GREETING, on=False, options=OPTIONS)
    assert result["thinking"] == ""
    assert result["text"].startswith(chat_fleet.answer_prefix)


async def check_embeddings(client: StockClient, chat_fleet: ChatFleet) -> None:
    """Embeddings are normalised and in the order of the inputs."""
    texts = ["why is the sky blue", "hello", "why is the sky blue"]
    first, second, third = await client.run("embed", chat_fleet.at, texts=texts)
    assert first == pytest.approx(third, abs=1e-3)
    assert second != pytest.approx(first, abs=1e-2)
    assert [math.hypot(*vector) for vector in (first, second)] == pytest.approx([1, 1], abs=1e-4)


async def check_sixteen_chats(client: StockClient, chat_fleet: ChatFleet) -> None:
    result = await client.run("concurrent", chat_fleet.at, count=16, question=GREETING, options=OPTIONS)
    assert len(result) == 16
    assert all(chat_fleet.answer_prefix in text for text in result)


async def check_leaving(client: StockClient, slow_fleet: SlowFleet) -> None:
    """Closing a stream early frees the worker."""
    before = await slow_fleet.generated_tokens()
    done = await client.run("open_stream", slow_fleet.at, question=slow_fleet.question, options=OPTIONS)
    assert not done
    await slow_fleet.until_unfinished(1)
    await client.run("close_stream", slow_fleet.at)
    await check_freed(slow_fleet, before, client)


async def check_freed(slow_fleet: SlowFleet, before: int, client: StockClient) -> None:
    """The worker has left its answer unfinished. `before`: its generated tokens at the beginning."""
    await slow_fleet.until_unfinished(0)
    generated = await slow_fleet.generated_tokens() - before
    assert generated < slow_fleet.answer_tokens * 3 / 4, f"the answer ended by itself; {client.log()}"

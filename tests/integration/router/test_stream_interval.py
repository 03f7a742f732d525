"""Answers whose tokens come from the worker in groups."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.tables import routing_table
from vllama_pool.workers.simulated.options import Options

MODEL = "tiny:latest"
QUICK = Options(model=MODEL, tokens_per_second=500, ttft=0.01, answer_tokens=12, tool_calls=True, tool_parser=True)
TOKENS = 13
"""Tokens per answer: twelve and the end of the sequence, which has no text."""
TABLE = routing_table(models={"grouped": {"serve": MODEL, "stream_interval": 4}})
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, {"a": QUICK}, table=TABLE) as running:
        yield running


async def chat(running: Fleet, model: str, **fields: Any) -> list[dict[str, Any]]:
    body = {"model": model, "messages": [{"role": "user", "content": "how is the weather?"}], **fields}
    response = await running.http.post("/api/chat", json=body)
    assert response.status_code == 200
    return [json.loads(line) for line in response.text.splitlines()]


def text(lines: list[dict[str, Any]]) -> str:
    return "".join(line["message"]["content"] for line in lines)


async def test_a_model_of_the_routing_file_streams_as_many_tokens_per_line_as_it_says(running: Fleet) -> None:
    single, grouped = await chat(running, "tiny"), await chat(running, "grouped")
    assert text(grouped) == text(single)
    assert len(single) == TOKENS
    assert len(grouped) == 5  # one token, four, four, three, and the end
    assert grouped[1]["message"]["content"] == text(single[1:5])
    assert grouped[-1]["eval_count"] == TOKENS


@pytest.mark.parametrize("model", ["tiny", "grouped"])
async def test_a_whole_answer_equals_the_streamed_one(running: Fleet, model: str) -> None:
    [whole] = await chat(running, model, stream=False)
    streamed = await chat(running, model)
    assert whole["message"]["content"] == text(streamed)
    assert whole["eval_count"] == TOKENS


@pytest.mark.parametrize("stream", [True, False])
async def test_requests_with_tools_get_their_calls_with_all_arguments(running: Fleet, stream: bool) -> None:
    lines = await chat(running, "grouped", tools=[TOOL], stream=stream)
    calls = [call["function"] for line in lines for call in line["message"].get("tool_calls", ())]
    assert [(call["name"], call["arguments"]) for call in calls] == [("weather", {})]

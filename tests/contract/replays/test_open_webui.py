"""Open WebUI: its requests, and the response fields that it depends on."""

from __future__ import annotations

import json
import math
import re
import time
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.contract.replays.conftest import Replay

CLIENT = "open-webui"


async def test_listed_and_loaded_models_have_the_same_names(replay: Replay) -> None:
    listed = {model["model"]: model for model in (await replay.object("models"))["models"]}
    loaded = {model["model"]: model for model in (await replay.object("loaded"))["models"]}
    assert set(loaded) == set(listed) == {"thinker:latest", "plain:latest", "embedder:latest"}
    for name, model in listed.items():
        assert model["name"] == name
        assert re.fullmatch("[0-9a-f]{64}", model["digest"])
        assert isinstance(model["size"], int)
        assert isinstance(model["details"], dict)
    for model in loaded.values():
        assert datetime.fromisoformat(model["expires_at"]).timestamp() > time.time()


async def test_the_version_is_three_numbers(replay: Replay) -> None:
    version = (await replay.object("version"))["version"]
    assert len([int(part) for part in re.sub(r"^v|-.*$", "", version).split(".")]) == 3


async def test_a_chat_with_unused_tools_is_answered(replay: Replay) -> None:
    *parts, last = await replay.lines("chat")
    assert last["done"] is True
    assert last["done_reason"] == "stop"
    assert min(last[name] for name in ("prompt_eval_count", "eval_count", "total_duration", "eval_duration")) > 0
    assert "Simulated answer" in "".join(part["message"]["content"] for part in parts)
    assert len(replay.upstream_body()["tools"]) == 2


async def test_a_tool_is_called(replay: Replay) -> None:
    lines = await replay.lines("chat about the weather")
    (call,) = [call for line in lines for call in line["message"].get("tool_calls", ())]
    assert call["function"]["name"] == "get_weather"
    assert set(call["function"]["arguments"]) == {"city", "unit"}
    assert call["id"]
    assert lines[-1]["done_reason"] == "stop"


async def test_tool_results_are_matched_to_calls_by_id(replay: Replay) -> None:
    await replay.lines("after the tools")
    _, message, *results = replay.upstream_body()["messages"]
    calls = {call["id"]: call["function"] for call in message["tool_calls"]}
    assert list(calls) == ["call_first001", "call_second02"]
    assert [call["name"] for call in calls.values()] == ["get_current_timestamp", "search_notes"]
    assert [json.loads(call["arguments"]) for call in calls.values()] == [{}, {"query": "today", "count": 2}]
    assert {result["tool_call_id"]: result["content"] for result in results} == {
        "call_second02": "two notes",
        "call_first001": "1790000000",
    }


async def test_a_title_is_generated(replay: Replay) -> None:
    assert (await replay.object("title"))["message"]["content"]


async def test_a_keep_alive_of_zero_unloads_the_model(replay: Replay) -> None:
    answer = await replay.object("unload")
    assert (answer["done"], answer["done_reason"], answer["response"]) == (True, "unload", "")


async def test_both_embedding_routes_return_the_same_direction(replay: Replay) -> None:
    first, second = (await replay.object("embed"))["embeddings"]
    assert [math.hypot(*vector) for vector in (first, second)] == pytest.approx([1, 1], abs=1e-4)
    alone = (await replay.object("embeddings"))["embedding"]
    assert alone == pytest.approx([value * alone[0] / first[0] for value in first], abs=1e-4)


async def test_pulling_a_served_model_succeeds(replay: Replay) -> None:
    lines = await replay.lines("pull")
    assert lines[0]["status"] == "pulling manifest"
    assert lines[-1] == {"status": "success"}
    assert all(line["completed"] <= line["total"] for line in lines if "total" in line)


async def test_show_has_capabilities_model_info_and_details(replay: Replay) -> None:
    shown = await replay.object("show")
    assert {"completion", "tools", "thinking"} <= set(shown["capabilities"])
    assert isinstance(shown["model_info"], dict)
    assert isinstance(shown["details"], dict)


async def test_an_error_is_a_string_under_error(replay: Replay) -> None:
    answer = await replay("chat", "nope")
    assert answer.status_code == 404
    assert answer.json() == {"error": "model 'nope' not found"}

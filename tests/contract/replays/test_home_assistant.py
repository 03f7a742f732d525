"""Home Assistant sends tool results without name or id."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.contract.replays.conftest import Replay
    from tests.support.fleet.live import Fleet

CLIENT = "home-assistant"


async def lifetime(running: Fleet) -> float:
    """Return the seconds until the model expires."""
    loaded: list[Any] = (await running.http.get("/api/ps")).json()["models"]
    (expires,) = [model["expires_at"] for model in loaded if model["model"] == "thinker:latest"]
    return datetime.fromisoformat(expires).timestamp() - time.time()


async def test_models_are_listed(replay: Replay) -> None:
    assert {model["model"] for model in (await replay.object("models"))["models"]} >= {"thinker:latest"}


async def test_a_pull_ends_with_success(replay: Replay) -> None:
    lines = await replay.lines("pull")
    assert lines[-1] == {"status": "success"}


async def test_a_keep_alive_in_seconds_sets_the_expiry(replay: Replay, running: Fleet) -> None:
    lines = await replay.lines("chat")
    assert not any(line["message"].get("thinking") for line in lines)
    assert lines[-1]["done_reason"] == "stop"
    assert 290 < await lifetime(running) <= 300


async def test_a_negative_keep_alive_never_expires(replay: Replay, running: Fleet) -> None:
    await replay.lines("chat for ever")
    assert await lifetime(running) > 20 * 365 * 86400
    assert "tools" not in replay.upstream_body()


async def test_tool_results_are_matched_to_calls_by_position(replay: Replay) -> None:
    await replay.lines("after the tools")
    _, message, *results = replay.upstream_body()["messages"]
    ids = [call["id"] for call in message["tool_calls"]]
    assert len(set(ids)) == 2
    assert [result["tool_call_id"] for result in results] == ids
    assert [result["content"] for result in results] == ["22 degrees", "1790000000"]


async def test_an_answer_follows_a_schema(replay: Replay) -> None:
    answer = json.loads((await replay.object("structured"))["message"]["content"])
    assert set(answer) == {"characters", "count"}


async def test_tools_are_refused_by_a_model_without_them(replay: Replay) -> None:
    answer = await replay("chat", "plain")
    assert answer.status_code == 400
    assert answer.json()["error"].endswith("does not support tools")

"""Home Assistant: its tools' results carry neither a name nor an id."""

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
    """Seconds that the model is still kept."""
    loaded: list[Any] = (await running.http.get("/api/ps")).json()["models"]
    (expires,) = [model["expires_at"] for model in loaded if model["model"] == "thinker:latest"]
    return datetime.fromisoformat(expires).timestamp() - time.time()


async def test_models_are_listed(replay: Replay) -> None:
    assert {model["model"] for model in (await replay.object("models"))["models"]} >= {"thinker:latest"}


async def test_pulling_tells_how_far_it_is(replay: Replay) -> None:
    lines = await replay.lines("pull")
    assert lines[-1] == {"status": "success"}


async def test_a_chat_keeps_the_model_for_some_seconds(replay: Replay, running: Fleet) -> None:
    lines = await replay.lines("chat")
    assert not any(line["message"].get("thinking") for line in lines)
    assert lines[-1]["done_reason"] == "stop"
    assert 290 < await lifetime(running) <= 300


async def test_a_chat_keeps_the_model_for_ever(replay: Replay, running: Fleet) -> None:
    await replay.lines("chat for ever")
    assert await lifetime(running) > 20 * 365 * 86400
    assert "tools" not in replay.sent_on()


async def test_results_find_their_calls_by_position(replay: Replay) -> None:
    await replay.lines("after the tools")
    _, asked, *results = replay.sent_on()["messages"]
    ids = [call["id"] for call in asked["tool_calls"]]
    assert len(set(ids)) == 2
    assert [result["tool_call_id"] for result in results] == ids
    assert [result["content"] for result in results] == ["22 degrees", "1790000000"]


async def test_a_form_is_filled_in(replay: Replay) -> None:
    made = json.loads((await replay.object("structured"))["message"]["content"])
    assert set(made) == {"characters", "count"}


async def test_a_model_without_tools_says_so(replay: Replay) -> None:
    answer = await replay("chat", "plain")
    assert answer.status_code == 400
    assert answer.json()["error"].endswith("does not support tools")

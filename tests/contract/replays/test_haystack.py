"""haystack always sends think: false, and reads role and content of every part."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.contract.replays.conftest import Replay

CLIENT = "haystack"


async def test_every_part_has_a_role_and_a_content(replay: Replay) -> None:
    lines = await replay.lines("chat")
    for line in lines:
        assert line["message"]["role"] == "assistant"
        assert isinstance(line["message"]["content"], str)
        assert not line["message"].get("thinking")
    assert lines[-1]["done_reason"] == "stop"


async def test_think_false_is_accepted_by_a_model_without_thinking(replay: Replay) -> None:
    assert (await replay.lines("chat", "plain"))[-1]["done_reason"] == "stop"


async def test_stream_parts_with_tool_calls_have_content(replay: Replay) -> None:
    lines = await replay.lines("chat with tools")
    assert all(isinstance(line["message"]["content"], str) for line in lines)
    assert [call["function"]["name"] for line in lines for call in line["message"].get("tool_calls", ())] == [
        "get_weather"
    ]

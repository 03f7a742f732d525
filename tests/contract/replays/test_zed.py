"""Zed has strict types, and sends null for absent fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.contract.replays.conftest import Replay

CLIENT = "zed"
LISTED = {"name": str, "modified_at": str, "size": int, "digest": str, "details": dict}
DETAILS = {"format": str, "family": str, "parameter_size": str, "quantization_level": str}
CHUNK = {"model": str, "created_at": str, "done": bool, "message": dict}
MESSAGE = {"role": str, "content": str}


def check(value: dict[str, Any], types: Mapping[str, type]) -> None:
    assert {name: type(value.get(name)) for name in types} == types


async def test_every_listed_model_has_zeds_required_fields(replay: Replay) -> None:
    listed = (await replay.object("models"))["models"]
    assert len(listed) == 3
    for model in listed:
        check(model, LISTED)
        check(model["details"], DETAILS)
        assert model["size"] >= 0
        shown = await replay.object("show", model["name"])
        assert isinstance(shown["capabilities"], list)
        assert isinstance(shown["model_info"], dict)


async def test_every_part_of_a_stream_has_role_and_content(replay: Replay) -> None:
    lines = await replay.lines("chat")
    for line in lines:
        check(line, CHUNK)
        check(line["message"], MESSAGE)
        assert line["message"]["role"] == "assistant"
    assert any(line["message"].get("thinking") for line in lines), "think: null means the model's default"
    assert "Simulated answer" in "".join(line["message"]["content"] for line in lines)
    assert not {"num_ctx", "num_predict", "options", "tools", "max_tokens"} & set(replay.upstream_body())


async def test_a_tool_call_is_returned_without_streaming(replay: Replay) -> None:
    answer = await replay.object("chat with tools")
    check(answer, CHUNK)
    check(answer["message"], MESSAGE)
    (call,) = answer["message"]["tool_calls"]
    assert isinstance(call["function"]["arguments"], dict)
    assert "type" not in call


async def test_a_tool_result_is_matched_to_its_call_by_name(replay: Replay) -> None:
    await replay.object("after the tool")
    _, message, result = replay.upstream_body()["messages"]
    assert result["tool_call_id"] == message["tool_calls"][0]["id"]
    assert result["content"] == "22 degrees"

"""Zed: its types are strict, and what it leaves out it sends as null."""

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


def check(found: dict[str, Any], wanted: Mapping[str, type]) -> None:
    assert {name: type(found.get(name)) for name in wanted} == wanted


async def test_every_listed_model_has_the_fields_that_must_be_there(replay: Replay) -> None:
    listed = (await replay.object("models"))["models"]
    assert len(listed) == 3
    for model in listed:
        check(model, LISTED)
        check(model["details"], DETAILS)
        assert model["size"] >= 0
        shown = await replay.object("show", model["name"])
        assert isinstance(shown["capabilities"], list)
        assert isinstance(shown["model_info"], dict)


async def test_a_stream_has_a_role_and_a_text_in_every_part(replay: Replay) -> None:
    lines = await replay.lines("chat")
    for line in lines:
        check(line, CHUNK)
        check(line["message"], MESSAGE)
        assert line["message"]["role"] == "assistant"
    assert any(line["message"].get("thinking") for line in lines), "think: null is the model's own way"
    assert "Simulated answer" in "".join(line["message"]["content"] for line in lines)
    assert not {"num_ctx", "num_predict", "options", "tools", "max_tokens"} & set(replay.sent_on())


async def test_a_call_that_is_not_streamed(replay: Replay) -> None:
    told = await replay.object("chat with tools")
    check(told, CHUNK)
    check(told["message"], MESSAGE)
    (call,) = told["message"]["tool_calls"]
    assert isinstance(call["function"]["arguments"], dict)
    assert "type" not in call


async def test_a_result_finds_its_call_by_name(replay: Replay) -> None:
    await replay.object("after the tool")
    _, asked, result = replay.sent_on()["messages"]
    assert result["tool_call_id"] == asked["tool_calls"][0]["id"]
    assert result["content"] == "22 degrees"

"""litellm reads a model's details before nearly every request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.contract.replays.conftest import Replay

CLIENT = "litellm"


async def test_show_accepts_the_field_name(replay: Replay) -> None:
    shown = await replay.object("show")
    (length,) = [value for key, value in shown["model_info"].items() if "context_length" in key]
    assert length == 4096
    assert isinstance(shown.get("template", ""), str)
    assert isinstance(shown["capabilities"], list)


async def test_an_empty_list_of_images_is_accepted(replay: Replay) -> None:
    answer = await replay.object("generate")
    assert "Simulated answer" in answer["response"]
    assert answer["done"] is True


async def test_a_repeat_penalty_reaches_vllm(replay: Replay) -> None:
    lines = await replay.lines("chat")
    assert all({"model", "done", "message"} <= set(line) for line in lines)
    assert replay.upstream_body()["repetition_penalty"] == pytest.approx(0.1)

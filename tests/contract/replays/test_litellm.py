"""litellm: it asks what a model is like before nearly every question."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.contract.replays.conftest import Replay

CLIENT = "litellm"


async def test_show_by_name(replay: Replay) -> None:
    shown = await replay.object("show")
    (length,) = [value for key, value in shown["model_info"].items() if "context_length" in key]
    assert length == 4096
    assert isinstance(shown.get("template", ""), str)
    assert isinstance(shown["capabilities"], list)


async def test_no_images_are_none(replay: Replay) -> None:
    told = await replay.object("generate")
    assert "Simulated answer" in told["response"]
    assert told["done"] is True


async def test_a_penalty_that_ollama_takes(replay: Replay) -> None:
    lines = await replay.lines("chat")
    assert all({"model", "done", "message"} <= set(line) for line in lines)
    assert replay.sent_on()["repetition_penalty"] == pytest.approx(0.1)

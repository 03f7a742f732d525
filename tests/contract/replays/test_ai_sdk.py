"""The AI SDK's provider sends settings beside `options`, where Ollama ignores them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.contract.replays.conftest import Replay

CLIENT = "ai-sdk"


async def test_fields_that_ollama_does_not_know_are_ignored(replay: Replay) -> None:
    assert (await replay.lines("chat"))[-1]["done_reason"] == "stop"
    sent = replay.upstream_body()
    assert sent.get("temperature") != 0.5
    assert not {"max_output_tokens", "max_tokens", "tool_choice"} & set(sent)


async def test_a_schema_with_a_dialect_is_followed(replay: Replay) -> None:
    answer = await replay.object("structured")
    assert json.loads(answer["message"]["content"]) == {"sky": "blue"}

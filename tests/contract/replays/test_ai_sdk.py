"""The AI SDK's provider: its settings are beside the options, where Ollama does not look."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.contract.replays.conftest import Replay

CLIENT = "ai-sdk"


async def test_fields_that_ollama_does_not_know_are_ignored(replay: Replay) -> None:
    assert (await replay.lines("chat"))[-1]["done_reason"] == "stop"
    sent = replay.sent_on()
    assert sent.get("temperature") != 0.5
    assert not {"max_output_tokens", "max_tokens", "tool_choice"} & set(sent)


async def test_a_schema_that_names_its_dialect(replay: Replay) -> None:
    told = await replay.object("structured")
    assert json.loads(told["message"]["content"]) == {"sky": "blue"}

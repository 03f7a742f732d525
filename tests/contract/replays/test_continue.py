"""Continue: it asks by the field `name`, and reads a model's parameters line by line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.contract.replays.conftest import Replay

CLIENT = "continue"


async def test_show_by_name(replay: Replay) -> None:
    shown = await replay.object("show")
    info = shown["model_info"]
    assert info[f"{info['general.architecture']}.context_length"] == 4096
    assert ".Suffix" not in shown.get("template", ""), "it would ask to fill in the middle"
    parameters = shown.get("parameters", "")
    for line in parameters.split("\n") if parameters else []:
        assert re.fullmatch(r'\S+\s+(".*"|\S+)', line), line


async def test_a_chat_that_keeps_the_model_for_half_an_hour(replay: Replay) -> None:
    *_, last = await replay.lines("chat")
    assert last["done_reason"] == "stop"
    sent = replay.sent_on()
    assert sent["stop"] == ["<|im_end|>"]
    assert sent["max_tokens"] == 64
    assert not {"num_ctx", "keep_alive"} & set(sent)


async def test_tools_without_a_stream(replay: Replay) -> None:
    (call,) = (await replay.object("chat with tools"))["message"]["tool_calls"]
    assert isinstance(call["function"]["arguments"], dict)


async def test_filling_in_the_middle_is_refused_in_ollamas_words(replay: Replay) -> None:
    answer = await replay("complete the middle", "thinker")
    assert answer.status_code == 400
    assert answer.json() == {"error": "registry.ollama.ai/library/thinker:latest does not support insert"}


async def test_embeddings(replay: Replay) -> None:
    assert len((await replay.object("embed"))["embeddings"]) == 2

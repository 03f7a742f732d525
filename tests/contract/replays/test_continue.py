"""Continue uses the field `name`, and parses a model's parameters line by line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.contract.replays.conftest import Replay

CLIENT = "continue"


async def test_show_accepts_the_field_name(replay: Replay) -> None:
    shown = await replay.object("show")
    info = shown["model_info"]
    assert info[f"{info['general.architecture']}.context_length"] == 4096
    assert ".Suffix" not in shown.get("template", ""), "Continue would request fill-in-the-middle"
    parameters = shown.get("parameters", "")
    for line in parameters.split("\n") if parameters else []:
        assert re.fullmatch(r'\S+\s+(".*"|\S+)', line), line


async def test_options_reach_vllm_without_num_ctx_and_keep_alive(replay: Replay) -> None:
    *_, last = await replay.lines("chat")
    assert last["done_reason"] == "stop"
    sent = replay.upstream_body()
    assert sent["stop"] == ["<|im_end|>"]
    assert sent["max_tokens"] == 64
    assert not {"num_ctx", "keep_alive"} & set(sent)


async def test_a_tool_call_is_returned_without_streaming(replay: Replay) -> None:
    (call,) = (await replay.object("chat with tools"))["message"]["tool_calls"]
    assert isinstance(call["function"]["arguments"], dict)


async def test_fill_in_the_middle_is_refused_with_ollamas_text(replay: Replay) -> None:
    answer = await replay("complete the middle", "thinker")
    assert answer.status_code == 400
    assert answer.json() == {"error": "registry.ollama.ai/library/thinker:latest does not support insert"}


async def test_two_inputs_get_two_embeddings(replay: Replay) -> None:
    assert len((await replay.object("embed"))["embeddings"]) == 2

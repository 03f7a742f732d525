"""n8n: it tries the front page, and speaks through LangChain's JavaScript."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.contract.replays.conftest import Replay

CLIENT = "n8n"


async def test_credentials_are_tried_on_the_front_page(replay: Replay) -> None:
    answer = await replay("credentials")
    assert answer.status_code == 200
    assert answer.text == "Ollama is running"


async def test_models_have_names(replay: Replay) -> None:
    assert {model["name"] for model in (await replay.object("models"))["models"]} >= {"thinker:latest"}


async def test_a_chat_without_tools_and_without_a_format(replay: Replay) -> None:
    assert (await replay.lines("chat"))[-1]["done_reason"] == "stop"
    assert not {"tools", "tool_choice", "response_format"} & set(replay.sent_on())


async def test_embeddings_that_must_not_be_cut(replay: Replay) -> None:
    assert len((await replay.object("embed"))["embeddings"]) == 1

"""n8n checks credentials on the root page, and uses LangChain's JavaScript."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.contract.replays.conftest import Replay

CLIENT = "n8n"


async def test_the_root_page_reports_that_ollama_is_running(replay: Replay) -> None:
    answer = await replay("credentials")
    assert answer.status_code == 200
    assert answer.text == "Ollama is running"


async def test_listed_models_have_names(replay: Replay) -> None:
    assert {model["name"] for model in (await replay.object("models"))["models"]} >= {"thinker:latest"}


async def test_empty_tools_and_format_are_not_sent_to_vllm(replay: Replay) -> None:
    assert (await replay.lines("chat"))[-1]["done_reason"] == "stop"
    assert not {"tools", "tool_choice", "response_format"} & set(replay.upstream_body())


async def test_embeddings_accept_truncate_false(replay: Replay) -> None:
    assert len((await replay.object("embed"))["embeddings"]) == 1

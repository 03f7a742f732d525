"""Single requests of other clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.contract.replays.conftest import Replay

CLIENT = "others"


async def test_null_options_are_unset(replay: Replay) -> None:
    (vector,) = (await replay.object("langchain embeds with every option null"))["embeddings"]
    assert len(vector) == 64


async def test_empty_fields_are_unset(replay: Replay) -> None:
    *parts, _ = await replay.lines("langchain generates with an empty format")
    assert "Simulated answer" in "".join(part["response"] for part in parts)
    assert "response_format" not in replay.upstream_body()


@pytest.mark.parametrize("name", ["genkit leaves stream out", "promptfoo leaves stream out"])
async def test_answers_are_streamed_by_default(replay: Replay, name: str) -> None:
    assert len(await replay.lines(name)) > 2


async def test_a_body_is_read_as_json_whatever_its_content_type(replay: Replay) -> None:
    assert "Simulated answer" in (await replay.object("curl sends a form"))["response"]

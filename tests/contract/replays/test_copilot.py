"""Copilot in VS Code hides all models if one lacks a field."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.contract.replays.conftest import Replay

CLIENT = "copilot"


async def test_the_version_is_at_least_copilots_minimum(replay: Replay) -> None:
    version = (await replay.object("version"))["version"]
    assert tuple(int(part) for part in version.split(".")) >= (0, 17, 6)


@pytest.mark.rule(110)
async def test_every_listed_model_shows_the_fields_that_copilot_reads(replay: Replay) -> None:
    listed = [model["model"] for model in (await replay.object("models"))["models"]]
    assert len(listed) == 3
    for name in listed:
        shown = await replay.object("show", name)
        assert isinstance(shown["capabilities"], list)
        info = shown["model_info"]
        assert info[f"{info['general.architecture']}.context_length"] in (4096, 8192)
        assert info["general.basename"] == name


async def test_only_models_that_call_tools_report_that_capability(replay: Replay) -> None:
    assert "tools" in (await replay.object("show", "thinker:latest"))["capabilities"]
    assert "tools" not in (await replay.object("show", "plain:latest"))["capabilities"]

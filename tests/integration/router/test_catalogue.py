"""tags, ps and show of a live fleet: one entry for all replicas, the safe one, which names their differences."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.live import Announced, Fleet, fleet
from tests.support.until import auntil
from vllama_pool.workers.simulated.options import Options

OPTIONS = Options(model="tiny", max_model_len=4096, reasoning="hm", tokens_per_second=500, ttft=0.01, answer_tokens=2)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, {"a": OPTIONS}, keep_alive=60.0) as running:
        yield running


async def entry(running: Fleet, path: str) -> dict[str, Any]:
    """The one model of a list, or what show says of it."""
    if path == "/api/show":
        return dict((await running.http.post(path, json={"model": "tiny"})).json())
    [item] = (await running.http.get(path)).json()["models"]
    return dict(item)


async def join(running: Fleet, name: str, *, version: str, **changes: Any) -> Announced:
    """A further worker of the same model, which differs."""
    first = running.workers["a"].record
    model = msgspec.structs.replace(first.models[0], **changes)
    record = msgspec.structs.replace(first, id=name, models=(model,), engine_version=version)
    joined = running.workers[name] = Announced(running["a"], record, running.registry)
    await joined.join()

    async def seen() -> bool:
        return name in await running.states()

    await auntil(seen, 5, f"{name} to be seen")
    return joined


@pytest.mark.rule(9, 10, 22)
@pytest.mark.parametrize("path", ["/api/tags", "/api/ps", "/api/show"])
async def test_a_difference_is_named_while_it_lasts_and_the_safe_answer_given(running: Fleet, path: str) -> None:
    alone = await entry(running, path)
    assert "replicas_differ" not in alone
    changes: dict[str, Any] = {"context_length": 1024, "quantization": "FP8", "capabilities": ("completion",)}
    first = await join(running, "b", version="0.32.0", **changes)
    second = await join(running, "c", version="0.31.0", digest="c" * 64)
    both = await entry(running, path)
    assert both["replicas_differ"] == {
        "capabilities": ["completion", "thinking"],
        "context_length": [1024, 4096],
        "digest": ["a" * 64, "c" * 64],
        "engine_version": ["0.31.0", "0.32.0"],
    }
    if path == "/api/show":
        assert both["model_info"]["llama.context_length"] == 1024
    else:
        assert (both["details"] if path == "/api/tags" else both)["context_length"] == 1024
    if path != "/api/ps":
        assert both["capabilities"] == ["completion"]
    for worker in (first, second):
        await worker.fall_silent()
        await running.registry.leave(worker.id, worker.record.generation)

    async def as_before() -> bool:
        return {**await entry(running, path), "expires_at": ""} == {**alone, "expires_at": ""}

    await auntil(as_before, 5, "the difference to go with the workers")


@pytest.mark.rule(174)
async def test_equal_replicas_and_a_restarted_router_have_one_digest(running: Fleet, tmp_path: Path) -> None:
    before = await entry(running, "/api/tags")
    await join(running, "b", version="")
    assert await entry(running, "/api/tags") == before
    assert re.fullmatch("[0-9a-f]{64}", before["digest"])
    async with fleet(tmp_path / "another", {"z": OPTIONS}) as other:
        assert (await entry(other, "/api/tags"))["digest"] == before["digest"]


@pytest.mark.rule(22, 93, 187)
async def test_the_time_that_is_left_is_read_by_python_as_open_webui_does(running: Fleet) -> None:
    def left(stamp: str) -> timedelta:
        moment = datetime.fromisoformat(stamp)
        return moment - datetime.now(moment.tzinfo)

    assert timedelta(seconds=50) < left((await entry(running, "/api/ps"))["expires_at"]) <= timedelta(seconds=60)
    chat = {"model": "TINY:latest", "messages": [{"role": "user", "content": "x"}], "stream": False}
    for keep_alive, least in (("10m", 590), (1800, 1790), (-1, 3e9), (0, 50)):
        assert (await running.http.post("/api/chat", json={**chat, "keep_alive": keep_alive})).status_code == 200
        assert left((await entry(running, "/api/ps"))["expires_at"]) > timedelta(seconds=least), keep_alive


@pytest.mark.rule(109, 111)
@pytest.mark.parametrize("verbose", [True, False])
async def test_facts_hold_neither_name_nor_template_nor_lists(running: Fleet, verbose: bool) -> None:
    shown = (await running.http.post("/api/show", json={"model": "tiny", "verbose": verbose})).json()
    assert "enable_thinking" in shown["template"]
    assert not {"general.name", "tokenizer.chat_template"} & set(shown["model_info"])
    assert {type(value) for value in shown["model_info"].values()} == {str, int}


@pytest.mark.rule(110)
async def test_copilot_is_shown_the_name_that_it_asked_for(running: Fleet) -> None:
    headers = {"user-agent": "GitHubCopilotChat/0.30.1"}
    shown = (await running.http.post("/api/show", json={"model": "TINY:Latest"}, headers=headers)).json()
    assert shown["model_info"]["general.basename"] == "TINY:Latest"


@pytest.mark.rule(171, 173)
@pytest.mark.trap(10)
async def test_models_are_found_by_every_spelling_and_listed_in_short(running: Fleet) -> None:
    assert (await entry(running, "/api/tags"))["name"] == "tiny:latest"
    for name in (
        "tiny",
        "TINY",
        "tiny:latest",
        "Tiny:LATEST",
        "library/tiny",
        "registry.ollama.ai/library/tiny:latest",
    ):
        assert (await running.http.post("/api/show", json={"model": name})).status_code == 200, name
    missing = await running.http.post("/api/show", json={"name": "Huge"})
    assert (missing.status_code, missing.json()) == (404, {"error": "model 'Huge:latest' not found"})
    cloud = await running.http.post("/api/show", json={"model": "tiny:cloud"})
    assert cloud.status_code == 403
    assert cloud.json() == {"error": "ollama cloud is disabled: remote model details are unavailable"}

"""tags, ps and show merge the replicas of a model into one entry, which names their differences."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.fleet.live import Announced, Fleet, fleet
from tests.support.until import auntil
from vllama_pool.workers.simulated.options import Options

OPTIONS = Options(model="tiny", max_model_len=4096, reasoning="hm", tokens_per_second=500, ttft=0.01, answer_tokens=2)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, {"a": OPTIONS}, keep_alive=60.0) as running:
        yield running


async def entry(running: Fleet, path: str) -> dict[str, Any]:
    """The only entry of a list, or the body of show."""
    if path == "/api/show":
        return dict((await running.http.post(path, json={"model": "tiny"})).json())
    [item] = (await running.http.get(path)).json()["models"]
    return dict(item)


async def join(running: Fleet, name: str, *, version: str, **changes: Any) -> Announced:
    """Add a replica whose model differs in these fields."""
    first = running.workers["a"].record
    model = msgspec.structs.replace(first.models[0], **changes)
    record = msgspec.structs.replace(first, id=name, models=(model,), engine_version=version)
    joined = running.workers[name] = Announced(running["a"], record, running.registry)
    await joined.join()

    async def listed() -> bool:
        return name in await running.states()

    await auntil(listed, 5, f"{name} to be listed")
    return joined


@pytest.mark.rule(9, 10, 22)
@pytest.mark.parametrize("path", ["/api/tags", "/api/ps", "/api/show"])
async def test_differing_replicas_give_the_weakest_answer_and_name_the_difference(running: Fleet, path: str) -> None:
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
        await running.registry.deregister(worker.id, worker.record.generation)

    async def as_before() -> bool:
        return {**await entry(running, path), "expires_at": ""} == {**alone, "expires_at": ""}

    await auntil(as_before, 5, "the difference to go with the workers")


@pytest.mark.rule(174)
async def test_the_digest_is_the_same_for_equal_replicas_and_for_every_router(running: Fleet, tmp_path: Path) -> None:
    before = await entry(running, "/api/tags")
    await join(running, "b", version="")
    assert await entry(running, "/api/tags") == before
    assert re.fullmatch("[0-9a-f]{64}", before["digest"])
    async with fleet(tmp_path / "another", {"z": OPTIONS}) as other:
        assert (await entry(other, "/api/tags"))["digest"] == before["digest"]


@pytest.mark.rule(22, 93, 187)
async def test_python_parses_expires_at_as_open_webui_does(running: Fleet) -> None:
    def left(stamp: str) -> timedelta:
        moment = datetime.fromisoformat(stamp)
        return moment - datetime.now(moment.tzinfo)

    assert timedelta(seconds=50) < left((await entry(running, "/api/ps"))["expires_at"]) <= timedelta(seconds=60)
    chat = {"model": "TINY:latest", "messages": [{"role": "user", "content": "x"}], "stream": False}
    for keep_alive, least in (("10m", 590), (None, 590), (1800, 1790), (-1, 3e9), (None, 3e9), (0, 50)):
        assert (await running.http.post("/api/chat", json={**chat, "keep_alive": keep_alive})).status_code == 200
        assert left((await entry(running, "/api/ps"))["expires_at"]) > timedelta(seconds=least), keep_alive

"""Ollama's environment variables change what a running router or worker does."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet.agents import agent
from tests.support.fleet.live import fleet
from tests.support.until import auntil
from tests.support.vllm.model_folder import write_model
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

QUICK = Options(model="tiny", tokens_per_second=500, ttft=0.01, answer_tokens=5, slots=1)
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": False}


@pytest.mark.rule(186)
async def test_ollama_origins_admits_further_origins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_ORIGINS", "https://*.example.com")
    async with fleet(tmp_path, {}) as running:
        admitted = await running.http.get("/", headers={"origin": "https://chat.example.com"})
        assert admitted.headers["access-control-allow-origin"] == "https://chat.example.com"
        assert (await running.http.get("/", headers={"origin": "https://chat.example.org"})).status_code == 403


@pytest.mark.rule(187)
async def test_ollama_keep_alive_sets_the_expiry_in_ps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_KEEP_ALIVE", "2h")
    async with fleet(tmp_path, {"a": QUICK}) as running:
        assert (await running.http.post("/api/chat", json=CHAT)).status_code == 200
        [model] = (await running.http.get("/api/ps")).json()["models"]
    expires = datetime.fromisoformat(model["expires_at"])
    assert timedelta(minutes=119) < expires - datetime.now(expires.tzinfo) <= timedelta(hours=2)


@pytest.mark.rule(188)
async def test_ollama_max_queue_limits_waiting_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MAX_QUEUE", "1")
    async with fleet(tmp_path, {"a": QUICK}) as running:
        running["a"].set_faults([faults.Freeze(seconds=600)])
        asked = [asyncio.create_task(running.http.post("/api/chat", json=CHAT)) for _ in range(6)]
        await auntil(lambda: sum(task.done() for task in asked) == 3, 15, "half of them to be refused")
        running["a"].set_faults([faults.Freeze(seconds=0)])
        answers = await asyncio.gather(*asked)
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [503] * 3  # one runs, one waits in vLLM


@pytest.mark.rule(192)
async def test_ollama_load_timeout_limits_how_long_a_worker_may_load(tmp_path: Path) -> None:
    model = str(write_model(tmp_path / "tiny"))
    words = ("--model", model, "--startup", "60")
    async with agent(*words, state_dir=tmp_path / "state", env={"OLLAMA_LOAD_TIMEOUT": "1s"}) as process:
        assert await process.exit_code(30) == 1
    assert process.says("not ready within 1 s")

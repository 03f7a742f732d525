"""Patterns, splits and maintenance of the routing file over a real vLLM with a LoRA adapter."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import httpx

from tests.support.fleet.agents import vllm_agent
from tests.support.fleet.live import fleet
from tests.support.until import auntil
from tests.support.vllm.servers import ANSWER_TIMEOUT, START_TIMEOUT

RULES = """
models:
  "team-*":
    serve: "{1}-lora"
    fallback: {no_worker: [base]}
  base: {serve: tiny-qwen3}
  mixed: {serve: [tiny-qwen3, ada-lora], split: user}
"""
ASIDE = """
maintenance:
  - {workers: [w], message: rack 3 moves}
"""
CHAT = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}


async def test_names_become_adapters_users_keep_their_side_and_a_worker_finishes_before_maintenance(
    vllm_command: list[str], tiny_qwen3: Path, tiny_qwen3_lora: Path, tmp_path: Path
) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text(RULES)
    flags = ("--max-model-len", "1024", "--max-num-seqs", "4", "--enable-lora", "--max-lora-rank", "8")
    flags = (*flags, "--lora-modules", f"ada-lora={tiny_qwen3_lora}")
    async with (
        fleet(tmp_path, {}, routing_file=file) as running,
        vllm_agent(vllm_command, tiny_qwen3, *flags, state_dir=tmp_path),
    ):
        running.http.timeout = httpx.Timeout(ANSWER_TIMEOUT)

        async def ask(model: str, **fields: object) -> httpx.Response:
            body = {"model": model, **CHAT, **fields}
            return await running.http.post("/v1/chat/completions", json=body)

        async def served(model: str, **fields: object) -> str:
            request_id = f"request-{len(running.log.getvalue())}"
            body = {"model": model, **CHAT, **fields}
            answer = await running.http.post("/v1/chat/completions", json=body, headers={"x-request-id": request_id})
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"] == model
            assert answer.json()["choices"][0]["message"]
            return str((await running.record(request_id))["served"])

        async def listed() -> bool:
            return len((await running.http.get("/api/tags")).json()["models"]) >= 3

        await auntil(listed, START_TIMEOUT, "base and adapter to be listed")
        assert await served("team-ada") == "ada-lora"
        assert await served("Team-New:latest") == "tiny-qwen3"
        sides = {user: await served("mixed", user=user) for user in "abcdefgh"}
        assert {user: await served("mixed", user=user) for user in sides} == sides
        assert len(Counter(sides.values())) == 2

        long = asyncio.create_task(ask("base", max_tokens=900, ignore_eos=True))
        await asyncio.sleep(0)
        await auntil(lambda: _running(running.http), 60, "vLLM to generate")
        file.write_text(RULES + ASIDE)

        async def is_aside() -> bool:
            return (await ask("base")).status_code == 503

        await auntil(is_aside, 60, "the worker to be set aside")
        refused = (await ask("team-ada")).json()["error"]["message"]
        assert refused.endswith("its workers are out: 1 set aside (rack 3 moves)")
        answer = await long
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] == 900
        file.write_text(RULES)
        await auntil(lambda: _answers(running.http), 60, "the worker to return")


async def _running(http: httpx.AsyncClient) -> bool:
    return bool((await http.get("/admin/workers")).json()["workers"][0]["in_flight"])


async def _answers(http: httpx.AsyncClient) -> bool:
    return (await http.post("/v1/chat/completions", json={"model": "base", **CHAT})).status_code == 200

"""The examples of long prompts and of a bigger pool, followed by their comments, with simulated workers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import httpx
from click.testing import CliRunner

from tests.support.fleet.live import Fleet, fleet
from tests.support.until import auntil
from vllama_pool.config.routing.table import DEFAULT_FILE
from vllama_pool.router.cli.main import main
from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.server import Simulated

EXAMPLES = DEFAULT_FILE.with_name("examples")
TAGS = {"office": ("office",)}
SMALL = Options(model="Qwen/Qwen3-8B", tokens_per_second=5000, ttft=0.001, answer_tokens=4, slots=4, max_model_len=8192)


def copied(name: str, folder: Path) -> Path:
    copy = folder / name
    copy.write_text((EXAMPLES / name).read_text())
    checked = CliRunner().invoke(main, ["check", "--strict", str(copy)])
    assert checked.exit_code == 0, checked.output
    return copy


async def ask(running: Fleet, text: str = "hi", path: str = "/v1/chat/completions") -> httpx.Response:
    body = {"model": "assistant", "messages": [{"role": "user", "content": text}], "stream": False}
    return await running.http.post(path, json=body, headers={"x-vllama-trace": "1"})


async def worker(running: Fleet, text: str = "hi", path: str = "/v1/chat/completions") -> str:
    """Return the id of the worker that answered."""
    answer = await ask(running, text, path)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-vllama-worker"]


async def test_long_prompts_spill_over_to_larger_windows_and_then_to_another_model(tmp_path: Path) -> None:
    file = copied("context-spill-over.yaml", tmp_path)
    models = {
        "small": SMALL,
        "large": replace(SMALL, max_model_len=40960),
        "million": replace(SMALL, model="Qwen/Qwen2.5-7B-Instruct-1M", max_model_len=1_010_000),
    }
    async with fleet(tmp_path / "state", models, routing_file=file) as running:
        for path in ("/v1/chat/completions", "/api/chat"):
            assert {await worker(running, "word " * 100, path) for _ in range(16)} == {"small", "large"}
            assert [await worker(running, "word " * words, path) for words in (12_000, 60_000)] == ["large", "million"]
        listed = await running.http.get("/admin/explain", params={"model": "assistant", "prompt_tokens": 20_000})
        assert listed.status_code == 200, listed.text


async def test_the_bigger_pool_answers_when_the_office_is_full_fails_or_is_off(tmp_path: Path) -> None:
    file = copied("bigger-pool.yaml", tmp_path)
    big = replace(SMALL, model="Qwen/Qwen3-235B-A22B", slots=64)
    slow = replace(SMALL, tokens_per_second=1, answer_tokens=60)
    async with Simulated(big) as pool:
        file.write_text(file.read_text().replace("http://${BIG_POOL:-10.0.0.5}:8000", pool.url))
        models = {"office": slow, "elsewhere": slow}
        async with fleet(tmp_path / "state", models, wait=False, tags=TAGS, routing_file=file) as running:
            office, elsewhere = running["office"], running["elsewhere"]
            await auntil(lambda: _all_ready(running), 10, "the router to see all workers")
            waiting = [asyncio.create_task(ask(running)) for _ in range(4)]
            await auntil(lambda: office.running == 4, 10, "the office to be full")
            waiting += [asyncio.create_task(ask(running)) for _ in range(4)]
            await auntil(lambda: elsewhere.running == 4, 10, "the others to be full")
            waiting += [asyncio.create_task(ask(running)) for _ in range(10)]
            await auntil(lambda: office.waiting + elsewhere.waiting == 2, 10, "the queue to be full")
            assert await worker(running) == "static/data-centre"
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await running.workers["office"].drain()
            await running.workers["elsewhere"].drain()
            await auntil(lambda: _are_draining(running), 10, "the office to be switched off")
            answer = await ask(running)
            assert answer.headers["x-vllama-worker"] == "static/data-centre"
            assert "no_worker" in answer.headers["x-vllama-fallback"]


async def _all_ready(running: Fleet) -> bool:
    return list((await running.states()).values()) == ["ready"] * 3


async def _are_draining(running: Fleet) -> bool:
    states = await running.states()
    return (states["office"], states["elsewhere"]) == ("draining", "draining")

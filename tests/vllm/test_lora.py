"""LoRA adapters on a real vLLM, which are models of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet.agents import AgentProcess, vllm_agent
from tests.support.fleet.live import Fleet
from tests.support.until import auntil
from tests.support.vllm.servers import START_TIMEOUT

PLAIN = {"stream": False, "think": False, "options": {"temperature": 0, "num_predict": 8}}


@pytest.fixture
async def worker(
    running: Fleet, vllm_command: list[str], tiny_qwen3: Path, tiny_qwen3_lora: Path, tmp_path: Path
) -> AsyncIterator[AgentProcess]:
    flags = ("--max-model-len", "1024", "--max-num-seqs", "4", "--enable-lora", "--max-lora-rank", "8")
    flags = (*flags, "--lora-modules", f"ada={tiny_qwen3_lora}")
    async with vllm_agent(vllm_command, tiny_qwen3, *flags, state_dir=tmp_path) as process:
        yield process


@pytest.mark.rule(108, 174)
async def test_a_lora_adapter_is_listed_answers_and_is_a_base_of_virtual_models(
    running: Fleet, worker: AgentProcess
) -> None:
    async def list_both() -> list[dict[str, Any]]:
        models = {model["name"]: model for model in (await running.http.get("/api/tags")).json()["models"]}
        return [models["tiny-qwen3:latest"], models["ada:latest"]] if len(models) == 2 else []

    base, adapter = await auntil(list_both, START_TIMEOUT, "base and adapter to be listed")
    assert adapter["digest"] != base["digest"]
    assert adapter["size"] > base["size"]
    assert adapter["capabilities"] == base["capabilities"] == ["completion", "tools", "thinking"]

    shown = (await running.http.post("/api/show", json={"model": "ada"})).json()
    assert shown["model_info"]["qwen3.context_length"] == 1024
    assert shown["model_info"]["general.base_model.0.name"] == "tiny-qwen3"

    virtual = {"model": "mine", "from": "ada", "system": "Be brief.", "stream": False}
    assert (await running.http.post("/api/create", json=virtual)).json() == {"status": "success"}
    for name in ("ada", "mine", "tiny-qwen3"):
        body = {"model": name, **PLAIN, "messages": [{"role": "user", "content": "hello"}]}
        answer = (await running.http.post("/api/chat", json=body)).json()
        assert answer["model"] == name
        assert answer["message"]["content"], answer
    rendered = {"model": "mine", **PLAIN, "_debug_render_only": True, "messages": [{"role": "user", "content": "hi"}]}
    text = (await running.http.post("/api/chat", json=rendered)).json()["_debug_info"]["rendered_template"]
    assert "Be brief." in text

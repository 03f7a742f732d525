"""Capabilities of a real vLLM that was started without an agent: the agent or the router detects them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fleet.agents import agent
from tests.support.fleet.live import PATIENT, PATIENT_ENV, Fleet, patient_settings, serving
from tests.support.tables import routing_table
from tests.support.until import auntil
from tests.support.vllm.servers import VllmServer
from vllama_pool.router.app import create_app


@pytest.mark.rule(176)
async def test_capabilities_of_an_attached_server_are_detected(
    running: Fleet, tiny_qwen3_vllm: VllmServer, tmp_path: Path
) -> None:
    async def has_capabilities() -> Any:
        listed = (await running.http.get("/api/tags")).json()["models"]
        return listed and listed[0]["capabilities"] == ["completion", "tools", "thinking"]

    async with agent("--attach", tiny_qwen3_vllm.url, state_dir=tmp_path, env=PATIENT_ENV):
        await auntil(has_capabilities, 60, "tiny-qwen3 to list its capabilities")


@pytest.mark.rule(176)
async def test_capabilities_of_a_server_in_the_routing_file_are_detected(
    tiny_vision_vllm: VllmServer, tmp_path: Path
) -> None:
    table = routing_table(workers=[{"url": tiny_vision_vllm.url, "name": "theirs"}])
    app = create_app(patient_settings(tmp_path, **PATIENT), table, log_stream=io.BytesIO())
    async with serving(app) as url, httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as http:

        async def has_capabilities() -> Any:
            listed = (await http.get("/api/tags")).json()["models"]
            return listed and listed[0]["capabilities"] == ["completion", "vision"]

        await auntil(has_capabilities, 60, "tiny-vision to list its capabilities")

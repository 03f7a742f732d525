"""A server whose engine has died."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from tests.support.until import until
from tests.support.vllm import response_shape
from tests.support.vllm.server_pair import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    QUESTION,
    RESPONSES,
    Simulate,
    fresh_connections,
    wait_for_status,
)
from tests.support.vllm.servers import Servers, Spec, VllmServer

PATHS = (CHAT, COMPLETIONS, MESSAGES, RESPONSES)


@pytest.fixture
def lasting_vllm(servers: Servers, tiny_qwen3_spec: Spec) -> Iterator[VllmServer]:
    """A server that does not end when its engine dies, however long the test takes."""
    env = (("VLLM_KEEP_ALIVE_ON_ENGINE_DEATH", "1"),)
    server = servers.get(replace(tiny_qwen3_spec, env=env), own=True)
    yield server
    server.stop()


async def test_a_dead_engine_answers_500(simulate: Simulate, lasting_vllm: VllmServer) -> None:
    pair = simulate(lasting_vllm)
    body = {"model": pair.model, **QUESTION, "prompt": "x", "input": "x", "max_tokens": 3}
    async with fresh_connections() as client:
        lasting_vllm.engine().kill()

        async def message() -> httpx.Response:
            return await client.post(pair.real + MESSAGES, json=body)

        await wait_for_status(message, 500, timeout=5.0)
        faults = pair.simulated + "/simulated/faults"
        await client.post(faults, json={"kind": "dead"})
        shapes = []
        for url in pair.urls:
            answers = await asyncio.gather(*(client.post(url + path, json=body) for path in PATHS))
            shapes.append([response_shape.of_response(answer) for answer in answers])
        assert (await client.get(pair.simulated + "/health")).status_code == 503
        await client.delete(faults)
    response_shape.assert_equal(*shapes)


def test_a_server_ends_after_its_engine_has_died(servers: Servers, tiny_qwen3_spec: Spec) -> None:
    server = servers.get(replace(tiny_qwen3_spec, env=(("REPLICA", "doomed"),)), own=True)
    server.engine().kill()
    until(lambda: not server.alive, 60.0, "the server's end")

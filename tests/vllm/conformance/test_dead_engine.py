"""A server whose engine has died."""

from __future__ import annotations

import asyncio

import httpx

from tests.support.until import until
from tests.support.vllm import response_shape
from tests.support.vllm.server_pair import (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    QUESTION,
    RESPONSES,
    ServerPair,
    fresh_connections,
    wait_for_status,
)
from tests.support.vllm.servers import VllmServer

PATHS = (CHAT, COMPLETIONS, MESSAGES, RESPONSES)


async def test_a_dead_engine_answers_500_until_its_server_ends(
    doomed_pair: ServerPair, doomed_tiny_qwen3: VllmServer
) -> None:
    body = {"model": doomed_pair.model, **QUESTION, "prompt": "x", "input": "x", "max_tokens": 3}
    async with fresh_connections() as client:
        doomed_tiny_qwen3.engine().kill()

        async def message() -> httpx.Response:
            """The server ends soon after an error of any other route."""
            return await client.post(doomed_pair.real + MESSAGES, json=body)

        await wait_for_status(message, 500, timeout=5.0)
        faults = doomed_pair.simulated + "/simulated/faults"
        await client.post(faults, json={"kind": "dead"})
        shapes = []
        for url in doomed_pair.urls:
            answers = await asyncio.gather(*(client.post(url + path, json=body) for path in PATHS))
            shapes.append([response_shape.of_response(answer) for answer in answers])
        assert (await client.get(doomed_pair.simulated + "/health")).status_code == 503
        await client.delete(faults)
    response_shape.assert_equal(*shapes)
    until(lambda: not doomed_tiny_qwen3.alive, 20.0, "the server's end")

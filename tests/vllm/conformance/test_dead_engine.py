"""A server whose engine has died."""

from __future__ import annotations

import httpx

from tests.support.until import until
from tests.support.vllm import response_shape
from tests.support.vllm.server_pair import CHAT, QUESTION, ServerPair, fresh_connections, wait_for_status
from tests.support.vllm.servers import VllmServer


async def test_a_dead_engine_answers_500_until_its_server_ends(
    doomed_pair: ServerPair, doomed_tiny_qwen3: VllmServer
) -> None:
    body = {"model": doomed_pair.model, **QUESTION, "max_tokens": 3}
    async with fresh_connections() as client:
        doomed_tiny_qwen3.engine().kill()

        async def chat() -> httpx.Response:
            return await client.post(doomed_pair.real + CHAT, json=body)

        real = await wait_for_status(chat, 500, timeout=5.0)
        faults = doomed_pair.simulated + "/simulated/faults"
        await client.post(faults, json={"kind": "dead"})
        simulated = await client.post(doomed_pair.simulated + CHAT, json=body)
        assert (await client.get(doomed_pair.simulated + "/health")).status_code == 503
        await client.delete(faults)
    response_shape.assert_equal(response_shape.of_response(real), response_shape.of_response(simulated))
    until(lambda: not doomed_tiny_qwen3.alive, 20.0, "the server's end")

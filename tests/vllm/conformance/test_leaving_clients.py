"""Clients that close the connection before the answer is complete."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.vllm.server_pair import (
    CHAT,
    QUESTION,
    RESPONSES,
    ServerPair,
    fresh_connections,
    generated_tokens,
    wait_for_requests,
)

TOKENS = 1900
"""As many as the context holds. They take the real server twenty seconds, and the slow simulated one minutes."""
SLOW = {"kind": "slow", "factor": 50}
LONG: dict[str, dict[str, Any]] = {
    CHAT: {**QUESTION, "max_tokens": TOKENS, "ignore_eos": True},
    RESPONSES: {"input": "What is 2+2?", "max_output_tokens": TOKENS, "ignore_eos": True},
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_a_disconnected_client_frees_its_sequence_before_the_end(
    chat_pair: ServerPair, path: str, stream: bool
) -> None:
    body = {"model": chat_pair.model, **LONG[path], "stream": stream}
    async with fresh_connections() as watcher:
        await watcher.post(chat_pair.simulated + "/simulated/faults", json=SLOW)
        for url in chat_pair.urls:
            await wait_for_requests(watcher, url, 0, timeout=10.0)
            before = await generated_tokens(watcher, url)
            async with fresh_connections() as client:
                request = asyncio.create_task(client.post(url + path, json=body))
                await wait_for_requests(watcher, url, 1, timeout=10.0)
                request.cancel()
                await asyncio.gather(request, return_exceptions=True)
            await wait_for_requests(watcher, url, 0, timeout=10.0)
            assert await generated_tokens(watcher, url) - before < TOKENS
        await watcher.delete(chat_pair.simulated + "/simulated/faults")

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
    wait_for_requests,
)

LONG: dict[str, dict[str, Any]] = {
    CHAT: {**QUESTION, "max_tokens": 1500, "ignore_eos": True},
    RESPONSES: {"input": "What is 2+2?", "max_output_tokens": 1500, "ignore_eos": True},
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_a_disconnected_client_frees_its_sequence_within_a_second(
    chat_pair: ServerPair, path: str, stream: bool
) -> None:
    body = {"model": chat_pair.model, **LONG[path], "stream": stream}
    async with fresh_connections() as watcher:
        for url in chat_pair.urls:
            await wait_for_requests(watcher, url, 0, timeout=10.0)
            async with fresh_connections() as client:
                request = asyncio.create_task(client.post(url + path, json=body))
                await wait_for_requests(watcher, url, 1, timeout=10.0)
                request.cancel()
                await asyncio.gather(request, return_exceptions=True)
            await wait_for_requests(watcher, url, 0, timeout=1.0)

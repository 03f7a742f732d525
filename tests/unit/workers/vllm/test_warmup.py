"""Warm-up requests and their results."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from vllama_pool.workers.vllm.warmup import WarmUpFailed, warm_up

URL = "http://worker.test:8100"
NO_TEMPLATE = {"error": {"message": "default chat template is no longer allowed, so you must provide a chat template"}}


class Server:
    """Answers by path, and records its requests."""

    def __init__(self, **answers: httpx.Response | Callable[[], httpx.Response]) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.keys: set[str | None] = set()
        self._answers = answers

    def __call__(self, request: httpx.Request) -> httpx.Response:
        name = request.url.path.rpartition("/")[2]
        self.requests.append((name, json.loads(request.content)))
        self.keys.add(request.headers.get("authorization"))
        answer = self._answers.get(name, httpx.Response(200, json={}))
        return answer() if callable(answer) else answer

    async def warm_up_result(self, *tasks: str, key: str | None = None) -> bool | None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(self)) as client:
            return await warm_up(client, URL, "m", tasks, key)


async def test_warm_up_chats_with_and_without_logprobs() -> None:
    server = Server()
    assert await server.warm_up_result("completion") is True
    assert [name for name, _ in server.requests] == ["completions", "completions"]
    assert ["logprobs" in body for _, body in server.requests] == [False, True]
    assert all(body["model"] == "m" and body["max_tokens"] <= 2 for _, body in server.requests)


async def test_warm_up_without_a_chat_template_sends_a_completion() -> None:
    answers = iter([httpx.Response(400, json=NO_TEMPLATE), httpx.Response(200, json={})])
    server = Server(completions=lambda: next(answers))
    assert await server.warm_up_result("completion") is False
    assert "messages" in server.requests[0][1]
    assert "prompt" in server.requests[1][1]


async def test_warm_up_of_an_embedding_model_sends_an_embedding() -> None:
    server = Server()
    assert await server.warm_up_result("embedding") is None
    assert [name for name, _ in server.requests] == ["embeddings"]


async def test_another_400_in_warm_up_leaves_the_template_unknown() -> None:
    server = Server(completions=httpx.Response(400, json={"error": {"message": "only images are taken"}}))
    assert await server.warm_up_result("completion") is None


async def test_a_500_fails_the_warm_up() -> None:
    with pytest.raises(WarmUpFailed, match="HTTP 500"):
        await Server(completions=httpx.Response(500, text="out of memory")).warm_up_result("completion")


async def test_a_lost_connection_fails_the_warm_up() -> None:
    def gone() -> httpx.Response:
        raise httpx.ReadError("connection reset")

    with pytest.raises(WarmUpFailed, match="connection reset"):
        await Server(completions=gone).warm_up_result("completion")


async def test_warm_up_sends_the_key() -> None:
    server = Server()
    await server.warm_up_result("completion", key="secret")
    assert server.keys == {"Bearer secret"}

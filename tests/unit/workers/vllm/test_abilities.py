"""What a server that somebody else started shows of its parsers, and that nothing is claimed which was not shown."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.server import Simulated
from vllama_pool.workers.vllm.abilities import Shown, abilities


async def shown(options: Options) -> Shown:
    async with Simulated(options) as worker, httpx.AsyncClient(trust_env=False) as client:
        return await abilities(client, worker.url, options.model)


@pytest.mark.parametrize(
    ("options", "able"),
    [
        (Options(model="m", reasoning="hm", ttft=0, tokens_per_second=1e6), ("thinking",)),
        (Options(model="m", ttft=0, tokens_per_second=1e6), ()),
        (Options(model="m", tool_calls=True, reasoning="hm", ttft=0, tokens_per_second=1e6), ("tools", "thinking")),
        (Options(model="m", embedding=True), ()),
    ],
)
async def test_a_server_shows_it(options: Options, able: tuple[str, ...]) -> None:
    assert await shown(options) == Shown(able)


def vllm(*, tools: bool, message: dict[str, Any], asked: list[dict[str, Any]], sees: bool = False) -> httpx.AsyncClient:
    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        asked.append(body)
        if not sees and isinstance(body["messages"][0]["content"], list):
            return httpx.Response(400, json={"error": {"message": "m is not a multimodal model"}})
        if "tools" in body and not tools:
            return httpx.Response(400, json={"error": {"message": '"auto" tool choice requires …'}})
        return httpx.Response(200, json={"choices": [{"index": 0, "message": {"role": "assistant", **message}}]})

    return httpx.AsyncClient(transport=httpx.MockTransport(answer))


async def test_tools_and_thinking_are_seen_with_short_requests() -> None:
    asked: list[dict[str, Any]] = []
    async with vllm(tools=True, message={"content": None, "reasoning": "Okay"}, asked=asked) as client:
        assert await abilities(client, "http://w", "m", "key") == Shown(("tools", "thinking"))
    assert len(asked) == 2
    assert all(body["max_tokens"] < 20 for body in asked)


async def test_a_model_that_takes_an_image_sees() -> None:
    async with vllm(tools=False, message={"content": "x"}, asked=[], sees=True) as client:
        assert await abilities(client, "http://w", "m") == Shown(("vision",))


async def test_without_a_parser_for_tools_thinking_is_still_seen() -> None:
    asked: list[dict[str, Any]] = []
    async with vllm(tools=False, message={"reasoning_content": "Okay"}, asked=asked) as client:
        assert await abilities(client, "http://w", "m") == Shown(("thinking",))
    assert len(asked) == 3


@pytest.mark.parametrize(
    "message", [{"content": "<think>Okay"}, {"content": "x", "reasoning": None}, {"reasoning": ""}]
)
async def test_thoughts_in_the_text_are_no_thinking(message: dict[str, Any]) -> None:
    async with vllm(tools=True, message=message, asked=[]) as client:
        assert await abilities(client, "http://w", "m") == Shown(("tools",))


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500),
        httpx.Response(200, text="no json"),
        httpx.Response(200, json={}),
        httpx.Response(200, text="[" * 9999),
    ],
)
async def test_nothing_is_claimed_of_a_server_that_answers_otherwise(answer: httpx.Response) -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answer)) as client:
        assert await abilities(client, "http://w", "m") == Shown()


async def test_a_server_that_is_gone_is_asked_nothing_more_and_nothing_claimed() -> None:
    asked = []

    def gone(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        raise httpx.ConnectError("gone", request=request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(gone)) as client:
        assert await abilities(client, "http://w", "m") == Shown(settled=False)
    assert len(asked) == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_that_is_busy_may_show_more_later(status: int) -> None:
    answers = iter([httpx.Response(200, json={"choices": []}), httpx.Response(status)])
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: next(answers))) as client:
        assert await abilities(client, "http://w", "m") == Shown(("tools",), settled=False)

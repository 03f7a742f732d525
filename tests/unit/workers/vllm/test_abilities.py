"""Detection of a running server's abilities."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.server import Simulated
from vllama_pool.workers.vllm.abilities import ABILITIES, Detection, detect_abilities


async def detected(options: Options) -> Detection:
    async with Simulated(options) as worker, httpx.AsyncClient(trust_env=False, verify=False, timeout=60) as client:
        return await detect_abilities(client, worker.url, options.model)


@pytest.mark.parametrize(
    ("options", "abilities"),
    [
        (Options(model="m", reasoning="hm", ttft=0, tokens_per_second=1e6), ("thinking",)),
        (Options(model="m", ttft=0, tokens_per_second=1e6), ()),
        (Options(model="m", tool_calls=True, reasoning="hm", ttft=0, tokens_per_second=1e6), ("tools", "thinking")),
        (Options(model="m", embedding=True), ()),
    ],
)
async def test_abilities_of_a_server_are_detected(options: Options, abilities: tuple[str, ...]) -> None:
    assert await detected(options) == Detection(abilities)


def vllm(
    *, tools: bool, message: dict[str, Any], requests: list[dict[str, Any]], accepts_images: bool = False
) -> httpx.AsyncClient:
    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        requests.append(body)
        if not accepts_images and isinstance(body["messages"][0]["content"], list):
            return httpx.Response(400, json={"error": {"message": "m is not a multimodal model"}})
        if "tools" in body and not tools:
            return httpx.Response(400, json={"error": {"message": '"auto" tool choice requires …'}})
        return httpx.Response(200, json={"choices": [{"index": 0, "message": {"role": "assistant", **message}}]})

    return httpx.AsyncClient(transport=httpx.MockTransport(answer))


async def test_tools_and_thinking_are_detected_with_short_requests() -> None:
    requests: list[dict[str, Any]] = []
    async with vllm(tools=True, message={"content": None, "reasoning": "Okay"}, requests=requests) as client:
        assert await detect_abilities(client, "http://w", "m", "key") == Detection(("tools", "thinking"))
    assert len(requests) == 2
    assert all(body["max_tokens"] < 20 for body in requests)


async def test_a_model_that_accepts_an_image_has_vision() -> None:
    async with vllm(tools=False, message={"content": "x"}, requests=[], accepts_images=True) as client:
        assert await detect_abilities(client, "http://w", "m") == Detection(("vision",))


async def test_thinking_is_detected_without_a_tool_parser() -> None:
    requests: list[dict[str, Any]] = []
    async with vllm(tools=False, message={"reasoning_content": "Okay"}, requests=requests) as client:
        assert await detect_abilities(client, "http://w", "m") == Detection(("thinking",))
    assert len(requests) == 3


@pytest.mark.parametrize(
    "message", [{"content": "<think>Okay"}, {"content": "x", "reasoning": None}, {"reasoning": ""}]
)
async def test_reasoning_in_the_content_is_not_detected_as_thinking(message: dict[str, Any]) -> None:
    async with vllm(tools=True, message=message, requests=[]) as client:
        assert await detect_abilities(client, "http://w", "m") == Detection(("tools",))


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500),
        httpx.Response(200, text="no json"),
        httpx.Response(200, json={}),
        httpx.Response(200, text="[" * 9999),
    ],
)
async def test_unexpected_responses_detect_no_abilities(answer: httpx.Response) -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answer)) as client:
        assert await detect_abilities(client, "http://w", "m") == Detection()


async def test_detection_stops_at_a_lost_connection() -> None:
    requests = []

    def gone(request: httpx.Request) -> httpx.Response:
        requests.append(request.url.path)
        raise httpx.ConnectError("gone", request=request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(gone)) as client:
        assert await detect_abilities(client, "http://w", "m") == Detection(undetected=ABILITIES)
    assert len(requests) == 1


@pytest.mark.parametrize("status", [429, 502, 503])
async def test_detection_on_a_busy_server_is_incomplete(status: int) -> None:
    answers = iter([httpx.Response(200, json={"choices": []}), httpx.Response(status)])
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: next(answers))) as client:
        assert await detect_abilities(client, "http://w", "m") == Detection(("tools",), ("vision",))


@pytest.mark.parametrize(("thinks", "abilities"), [(True, ("tools", "thinking")), (False, ("tools",))])
async def test_abilities_behind_a_tokenizer_of_mistral_are_detected(thinks: bool, abilities: tuple[str, ...]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        text = ""
        if "chat_template_kwargs" in body:
            text = "chat_template is not supported for Mistral tokenizers."
        elif "reasoning_effort" in body and not thinks:
            text = "reasoning_effort=<ReasoningEffort.high: 'high'> is not supported for this model"
        elif isinstance(body["messages"][0]["content"], list):
            text = "m is not a multimodal model"
        if text:
            return httpx.Response(400, json={"error": {"message": text}})
        message = {"reasoning": "Okay"} if "reasoning_effort" in body else {"content": "x"}
        return httpx.Response(200, json={"choices": [{"message": message}]})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        assert await detect_abilities(client, "http://w", "m") == Detection(abilities)


async def test_a_refusal_before_a_server_gets_busy_shows_nothing() -> None:
    answers = iter([httpx.Response(400), httpx.Response(400), httpx.Response(503)])
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: next(answers))) as client:
        assert await detect_abilities(client, "http://w", "m") == Detection(undetected=ABILITIES)

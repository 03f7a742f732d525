"""Several answers of a simulated worker to one request."""

from __future__ import annotations

from typing import Any

import httpx

from tests.support.vllm.simulated import workers
from tests.support.vllm.weather_tool import TOOL
from vllama_pool.workers.simulated import Options, faults

CHAT = "/v1/chat/completions"
FAST = Options(model="m", tokens_per_second=1000.0, ttft=0.0, answer_tokens=20, tool_calls=True, tool_parser=True)


async def post(url: str, path: str, **fields: Any) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=60.0) as client:
        answer: dict[str, Any] = (await client.post(url + path, json={"model": "m", **fields})).json()
    return answer


def question(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def test_each_choice_is_a_sequence_of_its_own() -> None:
    async with workers(FAST) as (worker,):
        answer = await post(worker.url, CHAT, messages=question("Hi"), n=3)
        finished = worker.metrics.finished_by["stop"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert finished == 3
    assert answer["usage"]["completion_tokens"] == 21 + 22 + 23


async def test_a_list_of_prompts_has_choices_for_each() -> None:
    async with workers(FAST) as (worker,):
        answer = await post(worker.url, "/v1/completions", prompt=["one", "two"], n=2, echo=True, max_tokens=4)
    texts = [choice["text"] for choice in answer["choices"]]
    assert [text[:3] for text in texts] == ["one", "one", "two", "two"]


async def test_faults_count_the_tokens_of_all_choices() -> None:
    async with workers(FAST) as (worker,):
        worker.set_faults([faults.Error(after_tokens=3)])
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=60.0) as client:
            body = {"model": "m", "messages": question("Hi"), "n": 2, "stream": True}
            text = (await client.post(worker.url + CHAT, json=body)).text
        running = worker.running
    assert text.count('"content":') == 2 + 3  # with the two events of the role
    assert text.count('"error"') == 1
    assert running == 0


async def test_a_question_that_mentions_the_weather_twice_gets_two_calls_where_they_may_be_parallel() -> None:
    fields = {"messages": question("the weather in Paris and the weather in Rome?"), "tools": [TOOL]}
    async with workers(FAST) as (worker,):
        both = await post(worker.url, CHAT, **fields)
        one = await post(worker.url, CHAT, **fields, parallel_tool_calls=False)
    assert [len(answer["choices"][0]["message"]["tool_calls"]) for answer in (both, one)] == [2, 1]

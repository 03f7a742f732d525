"""/v1/responses through a router with simulated workers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.fleet.live import Fleet, fleet
from tests.support.until import auntil
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/v1/responses"
RATE: dict[str, Any] = {"tokens_per_second": 400, "ttft": 0.001, "answer_tokens": 12}
QUICK = Options(model="tiny:latest", **RATE)
AGENT = Options(model="agent", tool_calls=True, tool_parser=True, reasoning=True, **RATE)
STRICT = Options(model="strict", strict_template="no-system", **RATE)
SLOW = Options(model="slow", tokens_per_second=20, ttft=0.001, answer_tokens=600)
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def calm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    workers = {"quick": QUICK, "agent": AGENT, "strict": STRICT, "slow": SLOW}
    async with fleet(tmp_path_factory.mktemp("state"), workers) as running:
        made = {"from": "tiny", "model": "pirate", "system": "be a pirate", "parameters": {"num_predict": 3}}
        assert (await running.http.post("/api/create", json={**made, "stream": False})).status_code == 200
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def pair(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, {"a": QUICK, "b": QUICK}) as running:
        yield running


async def ask(running: Fleet, **fields: Any) -> httpx.Response:
    return await running.http.post(PATH, json={"model": "TINY", "input": "hello", **fields})


def events(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.removesuffix("\n\n").split("\n\n")
    found: list[dict[str, Any]] = [json.loads(block.partition("\ndata: ")[2]) for block in blocks]
    assert [block.partition("\n")[0] for block in blocks] == [f"event: {each['type']}" for each in found]
    assert [each["sequence_number"] for each in found] == list(range(len(found)))
    return found


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


async def test_a_stream_and_a_whole_answer_have_the_same_text_and_the_clients_name(calm: Fleet) -> None:
    streamed = events(await ask(calm, stream=True))
    assert [each["type"] for each in streamed[:2]] == ["response.created", "response.in_progress"]
    assert streamed[-1]["type"] == "response.completed"
    assert {each["response"]["model"] for each in streamed if "response" in each} == {"TINY"}
    whole = (await ask(calm)).json()
    assert (whole["model"], whole["status"], whole["object"]) == ("TINY", "completed", "response")
    deltas = "".join(each["delta"] for each in streamed if each["type"] == "response.output_text.delta")
    assert deltas == text_of(whole) == text_of(streamed[-1]["response"]) != ""


async def test_the_log_has_the_tokens(calm: Fleet) -> None:
    for stream in (True, False):
        response = await ask(calm, stream=stream)
        record = await calm.record(response.headers["x-request-id"])
        assert (record["operation"], record["model"], record["outcome"]) == ("v1 responses", "tiny:latest", "complete")
        assert record["prompt_tokens"] > 0
        assert record["completion_tokens"] == 13


async def test_a_shortened_answer_is_incomplete(calm: Fleet) -> None:
    assert events(await ask(calm, stream=True, max_output_tokens=3))[-1]["type"] == "response.incomplete"
    assert (await ask(calm, max_output_tokens=3)).json()["status"] == "incomplete"


async def test_a_virtual_models_defaults_apply(calm: Fleet) -> None:
    whole = (await ask(calm, model="pirate")).json()
    assert (whole["model"], whole["instructions"], whole["max_output_tokens"]) == ("pirate", "be a pirate", 3)


async def test_a_call_and_its_result_make_a_round_trip(calm: Fleet) -> None:
    given: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
    first = await ask(calm, model="agent", input=given, tools=[FUNCTION], tool_choice="required", stream=True)
    output = events(first)[-1]["response"]["output"]
    (call,) = (item for item in output if item["type"] == "function_call")
    json.loads(call["arguments"])
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "done"}
    second = await ask(calm, model="agent", input=[*given, *output, result], tools=[FUNCTION])
    assert second.status_code == 200, second.text


async def test_a_strict_template_gets_the_instructions_in_the_users_message(calm: Fleet) -> None:
    response = await ask(calm, model="strict", instructions="be short", stream=True)
    assert events(response)[-1]["type"] == "response.completed"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "fault",
    [
        *(faults.Refuse(), faults.Status(status=500), faults.Status(status=503), faults.Status(status=429)),
        *(faults.Cut(after_tokens=0), faults.Cut(after_tokens=0, reset=True), faults.Error(after_tokens=0)),
        *(faults.Garbage(where="head"), faults.Empty(), faults.Dead()),
    ],
    ids=repr,
)
async def test_a_failure_before_the_first_item_is_retried(pair: Fleet, fault: faults.Fault, stream: bool) -> None:
    pair["a"].set_faults([fault])
    for _ in range(4):
        response = await ask(pair, stream=stream)
        assert response.status_code == 200, response.text
        last = events(response)[-1]["response"] if stream else response.json()
        assert last["status"] == "completed"


async def test_a_worker_lost_in_mid_stream_is_the_same_response_failed(pair: Fleet) -> None:
    for name in ("a", "b"):
        pair[name].set_faults([faults.Cut(after_tokens=5)])
    found = events(await ask(pair, stream=True))
    first, last = found[0]["response"], found[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["error"]["code"] == "server_error"
    kept = ("id", "created_at", "model", "object")
    assert [last["response"][name] for name in kept] == [first[name] for name in kept]


async def test_a_client_that_leaves_frees_its_worker(calm: Fleet) -> None:
    async with calm.http.stream("POST", PATH, json={"model": "slow", "input": "hello", "stream": True}) as response:
        await anext(response.aiter_bytes())
        assert calm["slow"].running == 1
    await auntil(lambda: calm["slow"].running == 0, 5, "the end of the generation")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"type": "robot"}]}, "input[0].type"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}, "input[0]"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"store": True}, "store"),
        ({"cache_salt": "x"}, "cache_salt"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
async def test_bad_input_never_reaches_a_worker(calm: Fleet, fields: dict[str, Any], param: str) -> None:
    before = calm["quick"].requests[PATH]
    response = await ask(calm, **fields)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert calm["quick"].requests[PATH] == before


async def test_stored_responses_are_not_found(calm: Fleet) -> None:
    for method in ("GET", "DELETE"):
        response = await calm.http.request(method, f"{PATH}/resp_1")
        assert response.status_code == 404
        assert response.json()["error"]["type"] == "not_found_error"

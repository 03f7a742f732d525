"""Prompts through a live router: context, truncation, rendering."""

import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.fleet.live import Fleet, fleet
from tests.support.until import auntil
from vllama_pool.router.protocol.vllm.errors import CONTEXT_EXCEEDED
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options

CONTEXT = 200
SMALL = Options(
    model="tiny:latest",
    tokens_per_second=2000,
    ttft=0.0,
    answer_tokens=12,
    max_model_len=CONTEXT,
    reasoning=True,
    tool_calls=True,
    tool_parser=True,
)
RENDERED = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """One worker shared by the tests that set no faults."""
    async with fleet(tmp_path_factory.mktemp("state"), {"a": SMALL}) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def fresh(tmp_path: Path) -> AsyncIterator[Fleet]:
    """One worker, for a test that sets faults."""
    async with fleet(tmp_path, {"a": SMALL}) as running:
        yield running


async def ask(running: Fleet, path: str, **fields: Any) -> dict[str, Any]:
    response = await running.http.post(path, json={"model": "tiny", "stream": False, **fields})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    answer: dict[str, Any] = response.json()
    return answer


def turns(count: int) -> list[dict[str, Any]]:
    """A system message, `count` numbered questions with answers, and a last question."""
    messages = [{"role": "system", "content": "be brief"}]
    for number in range(count):
        messages.append({"role": "user", "content": f"question number {number}"})
        messages.append({"role": "assistant", "content": "some answer to that"})
    return [*messages, {"role": "user", "content": "the last one"}]


@pytest.mark.rule(66)
async def test_debug_render_only_returns_the_prompt_and_generates_nothing(one: Fleet) -> None:
    before = one["a"].tokens
    chat = await ask(
        one, "/api/chat", messages=[{"role": "user", "content": "hello"}], stream=True, _debug_render_only=True
    )
    assert chat.pop("created_at").endswith("Z")
    assert chat == {
        "model": "tiny",
        "message": {"role": "", "content": ""},
        "done": False,
        "_debug_info": {"rendered_template": RENDERED},
    }
    generate = await ask(one, "/api/generate", prompt="hello", think=False, _debug_render_only=True)
    assert generate["_debug_info"] == {"rendered_template": RENDERED + "<think>\n\n</think>\n\n"}
    assert (generate["response"], generate["done"]) == ("", False)
    raw = await ask(one, "/api/generate", prompt="hello", raw=True, _debug_render_only=True)
    assert raw["_debug_info"] == {"rendered_template": "hello"}
    assert one["a"].tokens == before
    states = (await one.http.get("/admin/workers")).json()["workers"]
    assert [worker["in_flight"] for worker in states] == [0]


@pytest.mark.rule(54)
async def test_a_context_continues_the_conversation(one: Fleet) -> None:
    first = await ask(one, "/api/generate", prompt="hello")
    assert first["thinking"]
    second = await ask(one, "/api/generate", prompt="and you", context=first["context"])
    assert second["context"][: len(first["context"])] == first["context"]
    assert second["prompt_eval_count"] > first["prompt_eval_count"] + first["eval_count"] - 1
    assert (
        second["response"]
        == "Simulated answer to: and you. I count: one two three four five six seven eight"[: len(second["response"])]
    )
    assert second["thinking"] == first["thinking"]
    rendered = await ask(one, "/api/generate", prompt="bye", context=first["context"], _debug_render_only=True)
    text = rendered["_debug_info"]["rendered_template"]
    assert text.startswith(RENDERED + "<think>")
    assert text.endswith("<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.rule(54)
async def test_a_streamed_context_gives_the_same_answer(one: Fleet) -> None:
    first = await ask(one, "/api/generate", prompt="hello")
    fields = {"model": "tiny", "prompt": "and you", "context": first["context"]}
    whole = await ask(one, "/api/generate", **fields)
    response = await one.http.post("/api/generate", json=fields)
    parts = [json.loads(line) for line in response.text.splitlines()]
    for key in ("response", "thinking"):
        assert "".join(part.get(key, "") for part in parts) == whole[key]
    assert parts[-1]["context"] == whole["context"]


@pytest.mark.rule(54)
async def test_context_ids_outside_the_vocabulary_are_refused_in_vllms_words(one: Fleet) -> None:
    for stream in (True, False):
        body = {"model": "tiny", "prompt": "hello", "context": [99_999_999], "stream": stream}
        response = await one.http.post("/api/generate", json=body)
        assert response.status_code == 400
        assert response.json() == {"error": "Token id 99999999 is out of vocabulary"}


@pytest.mark.rule(62, 145)
async def test_a_conversation_that_is_too_long_loses_its_oldest_turns(fresh: Fleet) -> None:
    answer = await ask(fresh, "/api/chat", messages=turns(60), think=False)
    assert answer["message"]["content"].startswith("Simulated answer to: the last one")
    assert CONTEXT / 2 < answer["prompt_eval_count"] <= CONTEXT * 3 // 4
    assert answer["done_reason"] == "stop"
    stats = fresh["a"].stats()["requests"]
    assert stats["/v1/chat/completions"] == 2
    assert 1 < stats["/tokenize"] <= 7
    record = (await auntil(fresh.records, 5, "the log line"))[-1]
    assert (record["attempts"], record["status"]) == (1, 200)


@pytest.mark.rule(145)
async def test_a_truncated_conversation_keeps_more_than_one_turn(one: Fleet) -> None:
    short = await ask(one, "/api/chat", messages=turns(1), think=False)
    long = await ask(one, "/api/chat", messages=turns(60), think=False, options={"num_predict": 5})
    assert long["prompt_eval_count"] > short["prompt_eval_count"]
    assert long["done_reason"] == "length"


@pytest.mark.rule(62, 63)
@pytest.mark.parametrize("fields", [{"truncate": False}, {"shift": False}])
async def test_truncate_false_and_shift_false_give_an_error_instead(one: Fleet, fields: dict[str, Any]) -> None:
    for path, body in (("chat", {"messages": turns(60)}), ("generate", {"prompt": "hello " * 500})):
        for stream in (True, False):
            response = await one.http.post(f"/api/{path}", json={"model": "tiny", "stream": stream, **body, **fields})
            assert response.status_code == 400
            assert response.json() == {"error": CONTEXT_EXCEEDED}


@pytest.mark.rule(62)
@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "hello " * 500},
        {"prompt": "hello " * 500, "raw": True},
        {"prompt": "hello " * 5000},
        {"prompt": "hello " * 5000, "raw": True},
        {"prompt": "hello", "context": [520] * 500},
    ],
    ids=["chat", "raw", "very long", "very long and raw", "context"],
)
async def test_a_single_prompt_that_is_too_long_loses_its_beginning(one: Fleet, fields: dict[str, Any]) -> None:
    answer = await ask(one, "/api/generate", think=False if "raw" not in fields else None, **fields)
    assert answer["prompt_eval_count"] == CONTEXT * 3 // 4
    assert answer["eval_count"] > 1
    assert answer["response"]


@pytest.mark.rule(62, 137)
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/api/chat", {"messages": turns(60)}),
        ("/api/generate", {"prompt": "word " * 600}),
        ("/api/generate", {"prompt": "word " * 600, "raw": True}),
        ("/api/generate", {"prompt": "word " * 600, "context": [520]}),
    ],
    ids=["chat", "generate", "raw", "context"],
)
async def test_a_prompt_that_is_too_long_may_have_too_many_stop_strings(
    one: Fleet, path: str, fields: dict[str, Any]
) -> None:
    """vLLM reports one error after the other."""
    answer = await ask(one, path, options={"stop": ["~a", "~b", "~c", "~d", "~e"]}, **fields)
    assert answer["done_reason"] in ("stop", "length")
    assert 0 < answer["prompt_eval_count"] < CONTEXT


@pytest.mark.rule(62)
async def test_a_last_message_that_is_too_long_is_truncated(one: Fleet) -> None:
    long = [*turns(3)[:-1], {"role": "user", "content": "hello " * 500}]
    answer = await ask(one, "/api/chat", messages=long, options={"num_predict": 7})
    assert answer["prompt_eval_count"] == CONTEXT - 7
    assert (answer["eval_count"], answer["done_reason"]) == (7, "length")


@pytest.mark.rule(145)
async def test_truncation_keeps_tool_results_with_their_calls(one: Fleet) -> None:
    """One question followed by more tool calls than fit."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "what is the weather"}]
    for number in range(30):
        call = {"function": {"name": "get", "arguments": {"number": number}}}
        messages.append({"role": "assistant", "tool_calls": [call]})
        messages.append({"role": "tool", "content": "rain"})
    answer = await ask(one, "/api/chat", messages=messages, think=False)
    assert CONTEXT / 2 < answer["prompt_eval_count"] <= CONTEXT * 3 // 4


@pytest.mark.rule(63)
async def test_an_answer_that_fills_the_context_ends_with_length(tmp_path: Path) -> None:
    endless = dataclasses.replace(SMALL, answer_tokens=500, reasoning=False)
    async with fleet(tmp_path, {"a": endless}) as running:
        for fields in ({"raw": True}, {"options": {"num_predict": 100_000}}):
            answer = await ask(running, "/api/generate", prompt="hello " * 40, shift=True, **fields)
            assert answer["done_reason"] == "length"
            assert answer["prompt_eval_count"] + answer["eval_count"] == CONTEXT


@pytest.mark.parametrize(
    "fault",
    [
        faults.Status(status=500, paths=("/tokenize",)),
        faults.Status(status=503, paths=("/tokenize",)),
        faults.Hang(paths=("/tokenize",)),
    ],
    ids=repr,
)
async def test_a_failed_tokenize_request_is_retried_on_another_worker(tmp_path: Path, fault: faults.Fault) -> None:
    async with fleet(tmp_path, {"a": SMALL, "b": SMALL}, first_token_timeout=1.0) as pair:
        pair["a"].set_faults([fault])
        for _ in range(4):
            answer = await ask(pair, "/api/generate", prompt="hello", context=[520])
            assert answer["response"]
        await auntil(lambda: pair["a"].running == 0, 5, "no request is left in it")


@pytest.mark.rule(162)
async def test_a_client_that_disconnects_cancels_the_preflight_too(fresh: Fleet) -> None:
    fresh["a"].set_faults([faults.Hang(paths=("/tokenize",))])
    body = {"model": "tiny", "prompt": "hello", "context": [520]}
    with pytest.raises(httpx.ReadTimeout):
        await fresh.http.post("/api/generate", json=body, timeout=0.5)
    record = (await auntil(fresh.records, 5, "the log line"))[-1]
    assert (record["status"], record["outcome"]) == (499, "client gone")


@pytest.mark.parametrize("status", [400, 403, 405])
async def test_if_tokenize_is_refused_the_client_receives_the_context_error(fresh: Fleet, status: int) -> None:
    fresh["a"].set_faults([faults.Status(status=status, paths=("/tokenize",))])
    response = await fresh.http.post("/api/chat", json={"model": "tiny", "messages": turns(60)})
    assert (response.status_code, response.json()) == (400, {"error": CONTEXT_EXCEEDED})

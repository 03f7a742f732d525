"""Chats through a live router that end in an assistant message, or that the worker's chat template refuses."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from tests.support.fleet.live import Fleet, fleet
from tests.support.until import auntil
from vllama_pool.workers.simulated import faults
from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.template import ROLES

CONTEXT = 200
QUICK = Options(
    model="tiny:latest", tokens_per_second=2000, ttft=0.0, answer_tokens=5, max_model_len=CONTEXT, reasoning=True
)
COUNTED = " one two three four five"
"""The simulated answer to a text that the worker has not begun itself."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def thinking(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path_factory.mktemp("state"), {"a": QUICK}) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def strict(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """Two models whose templates want user and assistant in turn; one of them has no system role."""
    workers = {
        name: replace(QUICK, model=name, strict_template=name, reasoning=False)
        for name in ("no-system", "system-first")
    }
    async with fleet(tmp_path_factory.mktemp("strict"), workers) as running:
        yield running


def requests(running: Fleet, model: str) -> int:
    return int(running[model].stats()["requests"].get("/v1/chat/completions", 0))


async def ask(running: Fleet, path: str = "/api/chat", *, stream: bool = False, **fields: Any) -> dict[str, Any]:
    """Return the answer, or the joined lines of a stream."""
    response = await running.http.post(path, json={"model": "tiny", "stream": stream, **fields})
    assert response.status_code == 200, response.text
    lines = [json.loads(line) for line in response.text.splitlines()]
    answer: dict[str, Any] = lines[-1]
    for name in ("content", "thinking"):
        if "message" in answer:
            answer["message"][name] = "".join(line["message"].get(name, "") for line in lines)
    return answer


async def rendered(running: Fleet, path: str = "/api/chat", **fields: Any) -> str:
    text: str = (await ask(running, path, _debug_render_only=True, **fields))["_debug_info"]["rendered_template"]
    return text


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("think", [None, True, False])
async def test_the_model_continues_an_assistant_message_at_the_end(
    thinking: Fleet, stream: bool, think: bool | None
) -> None:
    answer = await ask(thinking, stream=stream, think=think, messages=[user("hello"), assistant("Well,")])
    assert (answer["message"]["content"], answer["message"]["thinking"]) == (COUNTED, "")
    assert answer["done_reason"] == "stop"


@pytest.mark.rule(66)
async def test_the_rendered_prompt_ends_in_the_assistant_message(thinking: Fleet) -> None:
    messages = [user("hello"), assistant("Well, ")]
    assert (await rendered(thinking, messages=messages)).endswith("<|im_end|>\n<|im_start|>assistant\nWell, ")
    empty = await rendered(thinking, messages=[user("hello"), assistant("")])
    assert empty.endswith("hello<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.rule(145)
async def test_a_shortened_conversation_is_continued(thinking: Fleet) -> None:
    turns = [message for number in range(40) for message in (user(f"question {number}"), assistant("an answer"))]
    answer = await ask(thinking, messages=[system("be brief"), *turns])
    assert answer["message"]["content"] == COUNTED
    assert CONTEXT / 2 < answer["prompt_eval_count"] <= CONTEXT * 3 // 4


@pytest.mark.rule(108)
async def test_a_virtual_models_messages_precede_the_continued_one(thinking: Fleet) -> None:
    messages = [user("hi"), assistant("hello")]
    created = {"model": "mine", "from": "tiny", "messages": messages, "stream": False}
    assert (await thinking.http.post("/api/create", json=created)).json() == {"status": "success"}
    text = await rendered(thinking, model="mine", messages=[user("and you"), assistant("I am")])
    assert text.endswith("hello<|im_end|>\n<|im_start|>user\nand you<|im_end|>\n<|im_start|>assistant\nI am")
    closed = await rendered(thinking, model="mine", messages=[system("be brief")])
    assert closed.endswith("assistant\nhello<|im_end|>\n<|im_start|>assistant\n")


CONVERSATIONS = {
    "system": [system("be brief"), user("hello")],
    "system later": [user("hi"), assistant("hello"), system("be brief"), user("bye")],
    "two systems": [system("be brief"), system("be kind"), user("hello")],
    "two users": [user("hello"), user("you")],
    "assistant first": [assistant("hello"), user("hi")],
    "two assistants": [user("hi"), assistant("a"), assistant("b"), user("bye")],
    "only a system": [system("be brief")],
    "continued": [user("hi"), user("you"), assistant("Well,")],
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["no-system", "system-first"])
@pytest.mark.parametrize("name", CONVERSATIONS)
async def test_what_a_strict_template_refuses_is_sent_again_in_another_form(
    strict: Fleet, name: str, model: str, stream: bool
) -> None:
    messages, before, logged = CONVERSATIONS[name], requests(strict, model), len(strict.records())
    answer = await ask(strict, stream=stream, model=model, messages=messages)
    assert answer["message"]["content"] == COUNTED if name == "continued" else answer["message"]["content"]
    accepted = model == "system-first" and name in ("system", "only a system")
    assert requests(strict, model) - before == (1 if accepted else 2)
    records = await auntil(lambda: strict.records()[logged:], 5, "the log line")
    assert [record["attempts"] for record in records] == [1]


@pytest.mark.rule(66)
@pytest.mark.parametrize("model", ["no-system", "system-first"])
@pytest.mark.parametrize("name", CONVERSATIONS)
async def test_the_rendered_prompt_of_another_form_has_all_texts(strict: Fleet, name: str, model: str) -> None:
    text = await rendered(strict, model=model, messages=CONVERSATIONS[name])
    for message in CONVERSATIONS[name]:
        assert str(message["content"]) in text
    assert ("<|im_start|>system" in text) == (model == "system-first" and "be brief" in text)


@pytest.mark.rule(52)
async def test_the_system_text_of_generate_is_put_before_the_prompt(strict: Fleet) -> None:
    fields = {"model": "no-system", "system": "be brief", "prompt": "hello"}
    first = await ask(strict, "/api/generate", **fields)
    assert first["response"]
    assert (await rendered(strict, "/api/generate", **fields)).startswith(
        "<|im_start|>user\nbe brief\n\nhello<|im_end|>"
    )
    second = await ask(strict, "/api/generate", **{**fields, "prompt": "bye"}, context=first["context"])
    assert second["context"][: len(first["context"])] == first["context"]


@pytest.mark.parametrize("count", [1, 2])
async def test_a_conversation_that_no_form_helps_gets_the_templates_words(strict: Fleet, count: int) -> None:
    messages, before = [{"role": "critic", "content": "hm"}] * count, requests(strict, "no-system")
    response = await strict.http.post("/api/chat", json={"model": "no-system", "messages": messages})
    assert (response.status_code, response.json()) == (400, {"error": ROLES["no-system"]})
    assert requests(strict, "no-system") - before == count


@pytest.mark.rule(145)
async def test_a_conversation_that_is_too_long_may_also_be_refused_by_the_template(strict: Fleet) -> None:
    turns = [message for number in range(40) for message in (user(f"question {number}"), user("more"), assistant("a"))]
    messages = [system("be brief"), *turns, user("the last one")]
    answer = await ask(strict, model="no-system", messages=messages)
    assert answer["message"]["content"]
    assert answer["prompt_eval_count"] <= CONTEXT * 3 // 4


async def test_a_500_that_may_be_a_templates_refusal_is_followed_by_another_form(strict: Fleet) -> None:
    strict["no-system"].set_faults([faults.Status(status=500, count=1)])
    before = requests(strict, "no-system")
    answer = await ask(strict, model="no-system", messages=[system("be brief"), user("hello")])
    assert answer["message"]["content"]
    assert requests(strict, "no-system") == before + 2

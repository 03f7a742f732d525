"""A worker dies in mid-stream, and another one continues its answers."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.until import auntil
from vllama_pool.workers.simulated.faults import Cut, Stall
from vllama_pool.workers.simulated.options import Options

STREAMS = 16
TOKENS = 60
STEADY = Options(model="tiny:latest", tokens_per_second=50, ttft=0.01, answer_tokens=TOKENS, slots=32)
QUESTION = "Why is 🦊 quicker than 你好 and the émigré?"
"""Its repetition in the answer has characters that span tokens."""
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}]}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
ROUTES: dict[str, dict[str, Any]] = {
    "/api/chat": CHAT | {"options": {"temperature": 0}},
    "/api/generate": {"prompt": QUESTION, "options": {"temperature": 0}},
    "/v1/chat/completions": CHAT | USAGE | {"temperature": 0},
    "/v1/completions": {"prompt": QUESTION, "max_tokens": TOKENS, "temperature": 0} | USAGE,
}


@dataclass
class Answer:
    """A streamed answer of any route, without the times."""

    texts: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    reason: str = ""
    context: list[int] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    errors: list[Any] = field(default_factory=list)
    ended: bool = False

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def read(self, line: str) -> None:
        if not line:
            return
        if line == "data: [DONE]":
            self.ended = True
            return
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            self.errors.append(event["error"])
            return
        if "id" in event:
            self.ids.add(f"{event['id']} {event['created']} {event['model']} {event['object']}")
            assert "prompt_token_ids" not in line or '"prompt_token_ids":null' in line
            for name, value in (event.get("usage") or {}).items():
                if isinstance(value, int):
                    self.counts[name] = value
            for choice in event["choices"]:
                assert choice.get("token_ids") is None
                self.texts.append(choice["text"] if "text" in choice else choice["delta"].get("content") or "")
                self.reason = choice["finish_reason"] or self.reason
            return
        self.texts.append(event.get("response") or event.get("message", {}).get("content") or "")
        if event["done"]:
            self.ended = True
            self.reason, self.context = event["done_reason"], event.get("context", [])
            self.counts.update({name: event[name] for name in ("prompt_eval_count", "eval_count")})

    @property
    def compared(self) -> tuple[Any, ...]:
        return self.text, dict(self.counts), self.reason, self.context, self.errors, self.ended


async def ask(running: Fleet, path: str, body: dict[str, Any], answer: Answer) -> Answer:
    async with running.http.stream("POST", path, json={"model": "tiny", **body}) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            answer.read(line)
    return answer


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, {"a": STEADY, "b": STEADY}) as running:
        yield running


async def interrupted(running: Fleet, path: str, body: dict[str, Any], after: int) -> list[Answer]:
    """Return the answers to many requests. One worker's stop after different numbers of tokens, from `after` on; then
    it is lost."""
    running["a"].set_faults([Stall(after_tokens=after + 1 + number, count=1) for number in range(STREAMS)])
    answers = [Answer() for _ in range(STREAMS)]
    tasks = [asyncio.create_task(ask(running, path, body, answer)) for answer in answers]
    await auntil(lambda: all(len(one.texts) >= after for one in answers), 10, "all streams to have begun")
    running["a"].vanish()
    return await asyncio.gather(*tasks)


def resumed(running: Fleet) -> list[dict[str, Any]]:
    return [record for record in running.records() if record.get("resumed")]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("after", [1, 9, 14])
async def test_no_stream_is_lost_with_its_worker(pair: Fleet, path: str, after: int) -> None:
    whole = await ask(pair, path, ROUTES[path], Answer())
    assert QUESTION in whole.text
    answers = await interrupted(pair, path, ROUTES[path], after)
    for answer in answers:
        assert answer.compared == whole.compared
        assert len(answer.ids) <= 1
    await auntil(lambda: len(pair.records()) > STREAMS, 5, "all requests to be logged")
    records = resumed(pair)
    assert len(records) >= STREAMS // 4, "some were on the lost worker"
    assert {record["outcome"] for record in records} == {"complete"}
    assert {record["completion_tokens"] for record in records} <= {TOKENS, TOKENS + 1}
    metrics = (await pair.http.get("/metrics")).text
    assert f'vllama_resumed_total{{model="tiny:latest"}} {len(records)}' in metrics
    assert pair["b"].running == 0


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("stop", [" seven eight", "🦊 quick", "好 and the émig"])
async def test_a_stop_string_across_the_seam_ends_the_answer(pair: Fleet, path: str, stop: str) -> None:
    stops: dict[str, Any] = {"stop": [stop]}
    body = ROUTES[path] | ({"options": {"temperature": 0} | stops} if path.startswith("/api") else stops)
    whole = await ask(pair, path, body, Answer())
    assert stop not in whole.text
    assert whole.reason == "stop"
    answers = await interrupted(pair, path, body, 1)
    assert {str(answer.compared) for answer in answers} == {str(whole.compared)}
    await auntil(lambda: resumed(pair), 5, "some to be logged as resumed")


async def test_an_entry_can_switch_it_off(tmp_path: Path) -> None:
    routing_file = tmp_path / "routing.yaml"
    routing_file.write_text("models:\n  tiny:\n    serve: tiny:latest\n    resume: false\n")
    async with fleet(tmp_path, {"a": STEADY, "b": STEADY}, routing_file=routing_file) as running:
        answers = await interrupted(running, "/api/chat", ROUTES["/api/chat"], 3)
        lost = [answer for answer in answers if answer.errors]
        assert lost
        assert all(len(answer.errors) == 1 and not answer.ended for answer in lost)


async def test_the_answer_to_a_raw_prompt_goes_on_too(pair: Fleet) -> None:
    body = {"prompt": QUESTION, "raw": True, "options": {"temperature": 0, "num_predict": TOKENS}}
    whole = await ask(pair, "/api/generate", body, Answer())
    answers = await interrupted(pair, "/api/generate", body, 9)
    assert {str(answer.compared) for answer in answers} == {str(whole.compared)}
    assert whole.context == []
    await auntil(lambda: resumed(pair), 5, "some to be logged as resumed")


@pytest.mark.parametrize("sent", [0, 5])
async def test_an_answer_whose_second_worker_is_lost_too_ends_with_one_error(tmp_path: Path, sent: int) -> None:
    """All workers lose chats in mid-stream, and their continuations."""
    faults = (
        Cut(paths=("/v1/chat/completions",), after_tokens=10, reset=True),
        Cut(paths=("/v1/completions",), after_tokens=sent, reset=True),
    )
    async with fleet(tmp_path, dict.fromkeys("abcd", STEADY)) as running:
        whole = await ask(running, "/api/chat", ROUTES["/api/chat"], Answer())
        for name in "abcd":
            running[name].set_faults(faults)
        answer = await ask(running, "/api/chat", ROUTES["/api/chat"], Answer())
        assert answer.text
        assert whole.text.startswith(answer.text)
        assert (len(answer.errors), answer.ended) == (1, False)
        continued = sum(running[name].requests["/v1/completions"] for name in "abcd")
        assert continued == (1 if sent else 2)
        await auntil(lambda: all(running[name].running == 0 for name in "abcd"), 10, "the workers to be idle")
        page = (await running.http.get("/admin/workers")).json()
        assert {worker["in_flight"] for worker in page["workers"]} == {0}


async def test_a_client_that_leaves_between_the_two_workers_leaves_nothing_running(tmp_path: Path) -> None:
    faults = (
        Cut(paths=("/v1/chat/completions",), after_tokens=10, reset=True),
        Stall(paths=("/v1/completions",)),
    )
    async with fleet(tmp_path, {"a": STEADY, "b": STEADY}) as running:
        for name in "ab":
            running[name].set_faults(faults)
        asking = asyncio.create_task(ask(running, "/api/chat", ROUTES["/api/chat"], Answer()))
        await auntil(
            lambda: sum(running[name].requests["/v1/completions"] for name in "ab") == 1, 10, "the second worker's turn"
        )
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await auntil(running.records, 10, "the request to be logged")
        assert running.records()[-1]["outcome"] == "client gone"
        await auntil(lambda: all(running[name].running == 0 for name in "ab"), 10, "the workers to be idle")
        page = (await running.http.get("/admin/workers")).json()
        assert {worker["in_flight"] for worker in page["workers"]} == {0}

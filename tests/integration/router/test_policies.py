"""Sessions, prefixes, tags and context windows, over real sockets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.fleet.live import Fleet, fleet
from tests.support.tables import routing_table
from vllama_pool.workers.simulated.options import Options

FAST: dict[str, Any] = {"model": "m", "tokens_per_second": 5000, "ttft": 0.001, "answer_tokens": 8}
NAMES = ("a", "b", "c", "d")


async def served_by(running: Fleet, body: dict[str, Any], headers: dict[str, str], path: str = "/api/chat") -> str:
    served_by.count += 1  # type: ignore[attr-defined]
    name = f"request-{served_by.count}"  # type: ignore[attr-defined]
    answer = await running.http.post(path, json={"stream": False, **body}, headers={**headers, "x-request-id": name})
    assert answer.status_code == 200, answer.text
    record = await running.record(name)
    assert record["attempts"] == 1
    return str(record["worker"])


served_by.count = 0  # type: ignore[attr-defined]


def chat(*texts: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]
    return {"model": "m", "messages": messages}


async def test_sessions_by_a_header_keep_their_worker_on_every_protocol(tmp_path: Path) -> None:
    table = routing_table(models={"m": {"policy": {"type": "session", "by": "header:X-Team"}}})
    async with fleet(tmp_path, {name: Options(**FAST) for name in NAMES}, table=table) as running:
        seen = set()
        for team in ("red", "green", "blue", "grey", "pink"):
            headers = {"x-team": team}
            workers = {
                await served_by(running, chat("hello"), headers),
                await served_by(running, chat("hello"), headers, "/v1/chat/completions"),
                await served_by(running, {"model": "m", "prompt": "x"}, headers, "/api/generate"),
            }
            assert len(workers) == 1
            seen |= workers
        assert len(seen) > 1


async def test_turns_of_a_conversation_return_to_the_worker_of_the_first(tmp_path: Path) -> None:
    table = routing_table(models={"m": {"policy": "prefix-affinity"}})
    async with fleet(tmp_path, {name: Options(**FAST) for name in NAMES}, table=table) as running:
        seen = set()
        for number in range(6):
            texts = [f"Question {number}?"]
            workers = set()
            for turn in range(3):
                workers.add(await served_by(running, chat(*texts), {}))
                texts += [f"Answer {turn}.", f"And {turn}?"]
            assert len(workers) == 1
            seen |= workers
        assert len(seen) > 1


async def test_a_prompt_too_long_for_one_replica_goes_to_a_larger_one_at_once(tmp_path: Path) -> None:
    options = {"small": Options(**FAST, max_model_len=512), "large": Options(**FAST, max_model_len=8192)}
    async with fleet(tmp_path, options) as running:
        long = chat("word " * 2000)
        assert {await served_by(running, long, {}) for _ in range(4)} == {"large"}


async def test_an_entry_sends_requests_to_the_workers_with_its_tags(tmp_path: Path) -> None:
    table = routing_table(
        models={
            "m": {"workers": {"require": ["gpu"]}},
            "near": {"serve": "m", "workers": {"prefer": ["eu"]}},
        }
    )
    tags = {"a": ("gpu",), "b": ("eu",)}
    async with fleet(tmp_path, {name: Options(**FAST) for name in ("a", "b")}, table=table, tags=tags) as running:
        assert {await served_by(running, chat("hello"), {}) for _ in range(4)} == {"a"}
        near = {**chat("hello"), "model": "near"}
        assert {await served_by(running, near, {}) for _ in range(4)} == {"b"}
        await running.workers["b"].drain()
        await running.until_state("b", "draining")
        assert {await served_by(running, near, {}) for _ in range(4)} == {"a"}

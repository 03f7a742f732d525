"""Conversations on two replicas with prefix caches: the hits by vLLM's own counters, and the spread of the load."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.tables import routing_table
from tests.support.vllm.servers import Servers, Spec, VllmServer

SYSTEM = "You answer questions about a list of words."
"""Of all conversations."""
WORDS = ("room", "clerk", "door", "stamp", "year", "tower")
CONVERSATIONS = 20
TURNS = 3
CLIENTS = 6
"""Conversations that are held at the same time."""
_COUNTER = re.compile(r"^vllm:prefix_cache_(queries|hits)_total\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)


@pytest.fixture
def replicas(servers: Servers, tiny_qwen3_spec: Spec, tiny_qwen3_vllm: VllmServer) -> Iterator[tuple[VllmServer, ...]]:
    """Two servers of one model. vLLM caches prefixes by default."""
    other = servers.get(replace(tiny_qwen3_spec, env=(("REPLICA", "2"),)), own=True)
    yield tiny_qwen3_vllm, other
    other.stop()


@dataclass
class Figures:
    queries: float = 0.0
    hits: float = 0.0
    earlier: int = 0
    """Tokens of the prompts that were sent in the turn before."""
    requests: Counter[str] = field(default_factory=Counter)
    """By worker."""

    @property
    def rate(self) -> float:
        return self.hits / self.queries

    def __str__(self) -> str:
        return (
            f"{self.rate:.0%} of {self.queries:.0f} tokens hit ({self.earlier / self.queries:.0%} were sent the turn "
            f"before), requests {dict(self.requests)}"
        )


async def cached(servers: tuple[VllmServer, ...]) -> Counter[str]:
    totals: Counter[str] = Counter()
    async with httpx.AsyncClient(trust_env=False) as http:
        for server in servers:
            for name, value in _COUNTER.findall((await http.get(f"{server.url}/metrics")).text):
                totals[name] += int(float(value))
    return totals


async def converse(running: Fleet, model: str, number: int, figures: Figures) -> None:
    draw = random.Random(f"{model} {number}")
    messages: list[dict[str, Any]] = [{"role": "system", "content": f"{model}. {SYSTEM}"}]
    earlier = 0
    for turn in range(TURNS):
        words = " ".join(draw.choice(WORDS) for _ in range(5 if turn else 120))
        messages.append({"role": "user", "content": f"Question {number}.{turn}: {words}?"})
        request_id = f"{model}-{number}-{turn}"
        body = {"model": model, "messages": messages, "stream": False, "think": False, "options": {"num_predict": 8}}
        answer = await running.http.post("/api/chat", json=body, headers={"x-request-id": request_id})
        assert answer.status_code == 200, answer.text
        messages.append({"role": "assistant", "content": answer.json()["message"]["content"] or "-"})
        figures.earlier += earlier
        earlier = answer.json()["prompt_eval_count"]
        figures.requests[(await running.record(request_id))["worker"]] += 1


async def measure(running: Fleet, model: str, replicas: tuple[VllmServer, ...]) -> Figures:
    figures = Figures()
    before = await cached(replicas)
    waiting = iter(range(CONVERSATIONS))

    async def client() -> None:
        for number in waiting:
            await converse(running, model, number, figures)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    gained = await cached(replicas)
    gained.subtract(before)
    figures.queries, figures.hits = gained["queries"], gained["hits"]
    return figures


async def test_conversations_hit_the_prefix_cache_more_often_with_affinity_and_load_stays_even(
    tmp_path: Path, replicas: tuple[VllmServer, ...], record_property: Any
) -> None:
    table = routing_table(
        models={
            "by-load": {"serve": "tiny-qwen3"},
            "by-prefix": {"serve": "tiny-qwen3", "policy": "prefix-affinity"},
        },
        workers=[{"url": server.url, "name": name, "slots": 8} for name, server in zip("ab", replicas, strict=True)],
    )
    async with fleet(tmp_path, {}, table=table) as running:
        running.http.timeout = httpx.Timeout(120)
        by_load = await measure(running, "by-load", replicas)
        by_prefix = await measure(running, "by-prefix", replicas)
    record_property("figure", f"prefix cache: least-load {by_load}; prefix-affinity {by_prefix}")
    assert by_prefix.rate > by_load.rate + 0.03, (by_load, by_prefix)
    busiest, requests = max(by_load.requests.values()), CONVERSATIONS * TURNS
    assert max(by_prefix.requests.values()) <= busiest + 0.2 * requests, "a slower server gets fewer by load, too"

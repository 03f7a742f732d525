"""Conversations on two replicas with prefix caches: the hits by vLLM's own counters, and the load of each replica."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.fleet.live import Fleet, fleet
from tests.support.tables import routing_table
from tests.support.vllm.servers import Servers, Spec, VllmServer

# The mark puts these tests into the server's group: fixtures of the module cannot name it.
pytestmark = [pytest.mark.usefixtures("tiny_qwen3_vllm"), pytest.mark.asyncio(loop_scope="module")]

SYSTEM = "You answer questions about a list of words."
"""Of all conversations."""
WORDS = ("room", "clerk", "door", "stamp", "year", "tower")
BOUND = 1.25
"""The default of prefix-affinity."""
SAMPLING_INTERVAL = 0.05
_COUNTER = re.compile(r"^vllm:prefix_cache_(queries|hits)_total\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)
_GAUGE = re.compile(r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def replicas(servers: Servers, tiny_qwen3_spec: Spec) -> Iterator[tuple[VllmServer, ...]]:
    """Two servers of one model, of which other modules use the first. vLLM caches prefixes by default."""
    first = servers.get(tiny_qwen3_spec)
    other = servers.get(replace(tiny_qwen3_spec, env=(("REPLICA", "2"),)), own=True)
    yield first, other
    other.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory, replicas: tuple[VllmServer, ...]) -> AsyncIterator[Fleet]:
    """A router whose models differ in their policy only."""
    table = routing_table(
        models={
            "by-load": {"serve": "tiny-qwen3"},
            "by-prefix": {"serve": "tiny-qwen3", "policy": {"type": "prefix-affinity", "bound": 100}},
            "bounded": {"serve": "tiny-qwen3", "policy": "prefix-affinity"},
            "unbounded": {"serve": "tiny-qwen3", "policy": {"type": "prefix-affinity", "bound": 100}},
        },
        workers=[{"url": server.url, "name": name, "slots": 64} for name, server in zip("ab", replicas, strict=True)],
    )
    async with fleet(tmp_path_factory.mktemp("router"), {}, table=table) as one:
        one.http.timeout = httpx.Timeout(120)
        yield one


@dataclass(frozen=True)
class Chats:
    conversations: int
    turns: int
    clients: int
    """Conversations that are held at the same time."""
    answer: int
    """Tokens."""
    alike: int = 0
    """Conversations of ten that begin with the same document."""

    @property
    def requests(self) -> int:
        return self.conversations * self.turns


DIFFERENT = Chats(conversations=20, turns=3, clients=6, answer=8)
SKEWED = Chats(conversations=40, turns=2, clients=12, answer=40, alike=7)


@dataclass
class Figures:
    queries: float = 0.0
    hits: float = 0.0
    earlier: int = 0
    """Tokens of the prompts that were sent in the turn before."""
    kept: int = 0
    """Those of them that the same replica had been sent."""
    strays: set[str] = field(default_factory=set)
    """Later turns that were sent to a replica without a turn of the conversation."""
    requests: Counter[str] = field(default_factory=Counter)
    """By worker."""
    peak: int = 0
    """Most requests in one replica at the same time, by its own gauges."""

    @property
    def rate(self) -> float:
        return self.hits / self.queries

    def __str__(self) -> str:
        return (
            f"{self.rate:.0%} of {self.queries:.0f} tokens hit ({self.earlier / self.queries:.0%} were sent the turn "
            f"before), requests {dict(self.requests)}, at most {self.peak} at a replica"
        )


@dataclass(frozen=True)
class Choice:
    """The choice of a replica for a request, with the loads before it."""

    request: str
    load: int
    """Of the chosen one."""
    rival: int | None = None
    """Load of the other one; None if it was not a candidate."""

    @property
    def limit(self) -> int:
        """Of a load with the request."""
        return math.ceil(BOUND * (self.load + (self.rival or 0) + 1) / 2)


async def cached(servers: tuple[VllmServer, ...]) -> Counter[str]:
    totals: Counter[str] = Counter()
    async with httpx.AsyncClient(trust_env=False) as http:
        for server in servers:
            for name, value in _COUNTER.findall((await http.get(f"{server.url}/metrics")).text):
                totals[name] += int(float(value))
    return totals


@asynccontextmanager
async def sampled(servers: tuple[VllmServer, ...], figures: Figures) -> AsyncIterator[None]:
    """Note the peak of the servers' loads meanwhile."""

    async def sample() -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
            while True:
                for server in servers:
                    page = (await http.get(f"{server.url}/metrics")).text
                    figures.peak = max(figures.peak, sum(int(float(value)) for value in _GAUGE.findall(page)))
                await asyncio.sleep(SAMPLING_INTERVAL)

    task = asyncio.get_running_loop().create_task(sample())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def converse(running: Fleet, model: str, number: int, chats: Chats, figures: Figures) -> None:
    draw = random.Random(f"{model} {'document' if number % 10 < chats.alike else number}")
    messages: list[dict[str, Any]] = [{"role": "system", "content": f"{model}. {SYSTEM}"}]
    earlier, holders = 0, dict[str, int]()
    for turn in range(chats.turns):
        words = " ".join(draw.choice(WORDS) for _ in range(5 if turn else 120))
        messages.append({"role": "user", "content": f"{words}: question {number}.{turn}?"})
        request_id = f"{model}-{number}-{turn}"
        options = {"num_predict": chats.answer}
        body = {"model": model, "messages": messages, "stream": False, "think": False, "options": options}
        answer = await running.http.post("/api/chat", json=body, headers={"x-request-id": request_id})
        assert answer.status_code == 200, answer.text
        messages.append({"role": "assistant", "content": answer.json()["message"]["content"] or "-"})
        worker = (await running.record(request_id))["worker"]
        figures.requests[worker] += 1
        figures.earlier += earlier
        figures.kept += holders.get(worker, 0)
        if turn and worker not in holders:
            figures.strays.add(request_id)
        earlier = holders[worker] = answer.json()["prompt_eval_count"]


async def measure(running: Fleet, model: str, replicas: tuple[VllmServer, ...], chats: Chats) -> Figures:
    figures = Figures()
    before = await cached(replicas)
    waiting = iter(range(chats.conversations))

    async def client() -> None:
        for number in waiting:
            await converse(running, model, number, chats, figures)

    async with sampled(replicas, figures):
        await asyncio.gather(*(client() for _ in range(chats.clients)))
    gained = await cached(replicas)
    gained.subtract(before)
    figures.queries, figures.hits = gained["queries"], gained["hits"]
    return figures


async def choices(running: Fleet, model: str) -> list[Choice]:
    """Return the choices of a model's workers. A replica that misses a probe leaves the other one without a rival."""
    found = []
    for line in (await running.http.get("/admin/decisions")).content.splitlines():
        decision = json.loads(line)
        for attempt in decision["attempts"] if decision["requested"] == model else ():
            loads = {worker["worker"]: worker.get("load", 0) for worker in attempt.get("compared", ())}
            rivals = [load for worker, load in loads.items() if worker != attempt["worker"]]
            found.append(Choice(decision["id"], loads.get(attempt["worker"], 0), *rivals))
    return found


async def test_conversations_hit_the_prefix_cache_more_often_with_affinity(
    running: Fleet, replicas: tuple[VllmServer, ...], record_property: Any
) -> None:
    by_load = await measure(running, "by-load", replicas, DIFFERENT)
    by_prefix = await measure(running, "by-prefix", replicas, DIFFERENT)
    record_property("figure", f"prefix cache: least-load {by_load}; prefix-affinity {by_prefix}")
    alone = {choice.request for choice in await choices(running, "by-prefix") if choice.rival is None}
    assert by_prefix.strays <= alone, "these had the choice, and went to another replica than their conversation"
    assert by_prefix.hits > 0.8 * by_prefix.kept, "vLLM finds the turn before in its cache"
    if all(choice.rival is not None for choice in await choices(running, "by-load")):
        assert by_prefix.rate > by_load.rate + 0.03, (by_load, by_prefix)


async def test_no_choice_loads_a_replica_beyond_the_bound_though_most_chats_are_about_one_document(
    running: Fleet, replicas: tuple[VllmServer, ...], record_property: Any
) -> None:
    unbounded = await measure(running, "unbounded", replicas, SKEWED)
    bounded = await measure(running, "bounded", replicas, SKEWED)
    made = {model: await choices(running, model) for model in ("unbounded", "bounded")}
    between = {model: [choice for choice in found if choice.rival is not None] for model, found in made.items()}
    beyond = {model: [choice for choice in found if choice.load >= choice.limit] for model, found in between.items()}
    at_limit = sum(choice.load + 1 == choice.limit for choice in between["bounded"])
    record_property(
        "figure",
        f"skewed chats: unbounded {unbounded}, {len(beyond['unbounded'])} choices beyond the bound; bounded {bounded}, "
        f"{at_limit} choices at the limit",
    )
    assert beyond["bounded"] == []
    if between == made:
        assert beyond["unbounded"], "otherwise the chats are not skewed enough to tell"
        assert bounded.peak <= Choice("", SKEWED.clients - 1, 0).limit, "the replica's own count"

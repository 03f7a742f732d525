"""Goodput, the queue's bound, and weights under four and a half times the requests that workers have slots for."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.support.fleet.live import Fleet, fleet
from tests.support.until import auntil
from vllama_pool.config.api_keys import digest
from vllama_pool.config.routing.table import parse
from vllama_pool.workers.simulated.options import Options

pytestmark = [pytest.mark.load, pytest.mark.timeout(120)]

SLOTS = 8
WORKER = Options(model="tiny", tokens_per_second=40, ttft=0.01, answer_tokens=20, slots=SLOTS)
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": False}
WEIGHTS = {"anna": 3, "bob": 1}
CLIENTS = {"anna": 6 * SLOTS, "bob": 3 * SLOTS}
"""More of anna's, so that some of hers wait even after a pause of the machine, when all slots are free at once."""
QUEUE = 48
USE = 0.8
"""Least share of the slots that run requests. It is 0.99 on a machine of its own, and less after each pause."""
SECONDS = float(os.environ.get("SATURATION_SECONDS", "9"))
"""Of saturation, with `SATURATION_SECONDS=60` for a longer one."""
SETTLING = 3.0
"""Seconds: of those that came first, both keys' requests were served alike."""
LOOK = 0.02
"""Seconds between two looks at the workers."""


@dataclass
class Saturated:
    answered: Counter[str] = field(default_factory=Counter)
    """By key."""
    statuses: Counter[int] = field(default_factory=Counter)
    tokens: int = 0
    """Of complete answers, those at the end included."""
    longest: float = 0.0
    """Longest queue seen."""
    busy: list[float] = field(default_factory=list)
    """Shares of the slots that ran a request, one for each look. A pause of the machine counts as none."""
    steady: bool = False
    """Every slot has been taken for SETTLING seconds. `answered` counts from then on."""


async def load(running: Fleet, clients: dict[str, int], seconds: float) -> Saturated:
    """Send requests without pause; a refused client asks again after 0.2 s. Looks begin once every slot is taken."""
    seen = Saturated()
    leaving = asyncio.Event()
    limits = httpx.Limits(max_connections=1000)
    async with (
        httpx.AsyncClient(base_url=running.url, timeout=60, trust_env=False, limits=limits) as http,
        asyncio.TaskGroup() as tasks,
    ):

        async def client(name: str) -> None:
            while not leaving.is_set():
                headers = {"authorization": f"Bearer {name}s-key"}
                response = await http.post("/api/chat", json=CHAT, headers=headers)
                if not leaving.is_set():
                    seen.statuses[response.status_code] += 1
                    seen.answered[name] += seen.steady and response.status_code == 200
                if response.status_code == 200:
                    seen.tokens += response.json()["eval_count"]
                else:
                    await asyncio.sleep(0.2)

        for name, count in clients.items():
            for _ in range(count):
                tasks.create_task(client(name))
        try:
            await auntil(lambda: busy(running) == 1, 30, "every slot is taken")
            await asyncio.sleep(SETTLING)
            seen.steady = True
            await look(running, http, seen, seconds)
        finally:
            leaving.set()
    return seen


async def look(running: Fleet, http: httpx.AsyncClient, seen: Saturated, seconds: float) -> None:
    end, page_at = time.monotonic() + seconds, 0.0
    while (now := time.monotonic()) < end:
        seen.busy.append(busy(running))
        if now >= page_at:
            page, page_at = (await http.get("/metrics")).text, now + 0.25
            waiting = [line for line in page.splitlines() if line.startswith("vllama_queue_waiting{")]
            seen.longest = max([seen.longest, *(float(line.split()[-1]) for line in waiting)])
        await asyncio.sleep(LOOK)


def busy(running: Fleet) -> float:
    return sum(running[name].running for name in running.workers) / (SLOTS * len(running.workers))


async def test_saturation_keeps_goodput_bound_and_weights(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    keys = {name: digest(f"{name}s-key").hex() for name in WEIGHTS}
    table = parse(
        f"models: {{tiny: {{limits: {{queue: {QUEUE}}}}}}}\n"
        "teams: {blue: {weight: 3}, red: {weight: 1}}\n"
        f"keys: {{anna: {{sha256: {keys['anna']}, team: blue}}, bob: {{sha256: {keys['bob']}, team: red}}}}\n".encode()
    )
    async with fleet(tmp_path, {"a": WORKER, "b": WORKER}, table=table) as running:
        seen = await load(running, CLIENTS, SECONDS)
        made = sum(running[name].tokens for name in running.workers)
    use, useful = statistics.fmean(seen.busy), seen.tokens / made
    share = seen.answered["anna"] / seen.answered.total()
    record_property(
        "figure",
        f"saturation for {SECONDS:g} s: {seen.answered.total()} answers; requests ran in {use:.1%} of the slots, and "
        f"{useful:.1%} of the tokens were of complete answers; at most {seen.longest:.0f} of {QUEUE} waited; "
        f"weights 3:1 gave {share:.1%}; {dict(seen.statuses)}",
    )
    assert use >= USE, "the goodput is what the slots can do"
    assert useful >= 0.98, "no work is in vain"
    assert 0 < seen.longest <= QUEUE
    assert share == pytest.approx(0.75, abs=0.12)
    assert set(seen.statuses) == {200, 503}

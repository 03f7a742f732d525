"""Goodput, the queue's bound, and weights under four times the requests that the workers have slots for."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support.fleet.live import Fleet, fleet
from vllama_pool.config.api_keys import digest
from vllama_pool.config.routing.table import parse
from vllama_pool.workers.simulated.options import Options

pytestmark = [pytest.mark.load, pytest.mark.timeout(120)]

SLOTS = 8
WORKER = Options(model="tiny", tokens_per_second=50, ttft=0.01, answer_tokens=20, slots=SLOTS)
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": False}
WEIGHTS = {"anna": 3, "bob": 1}
QUEUE = 40
SECONDS = float(os.environ.get("SATURATION_SECONDS", "12"))
"""Of saturation, with `SATURATION_SECONDS=60` for a longer one. The peak is measured for half as long."""
PEAK_SECONDS = SECONDS / 2


async def load(running: Fleet, clients: dict[str, int], seconds: float) -> tuple[Counter[str], Counter[int], float]:
    """Return the answers by key, all by status, and the longest queue seen. A refused client asks again after 0.2 s."""
    answered, statuses, longest = Counter[str](), Counter[int](), 0.0
    end = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=1000)
    async with httpx.AsyncClient(base_url=running.url, timeout=60, trust_env=False, limits=limits) as http:

        async def client(name: str) -> None:
            while time.monotonic() < end:
                headers = {"authorization": f"Bearer {name}s-key"}
                response = await http.post("/api/chat", json=CHAT, headers=headers)
                if time.monotonic() < end:
                    statuses[response.status_code] += 1
                    answered[name] += response.status_code == 200
                if response.status_code != 200:
                    await asyncio.sleep(0.2)

        tasks = [asyncio.create_task(client(name)) for name, count in clients.items() for _ in range(count)]
        while time.monotonic() < end:
            page = (await http.get("/metrics")).text
            waiting = [line for line in page.splitlines() if line.startswith("vllama_queue_waiting{")]
            longest = max([longest, *(float(line.split()[-1]) for line in waiting)])
            await asyncio.sleep(0.25)
        await asyncio.gather(*tasks)
    return answered, statuses, longest


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
        peak, _, _ = await load(running, {"anna": SLOTS, "bob": SLOTS}, PEAK_SECONDS)
        full, statuses, longest = await load(running, {"anna": 4 * SLOTS, "bob": 4 * SLOTS}, SECONDS)
    rate, peak_rate = full.total() / SECONDS, peak.total() / PEAK_SECONDS
    goodput, share = rate / peak_rate, full["anna"] / full.total()
    record_property(
        "figure",
        f"saturation for {SECONDS:g} s: {rate:.1f} answers/s, {goodput:.1%} of the peak of {peak_rate:.1f}; "
        f"at most {longest:.0f} of {QUEUE} waited; weights 3:1 gave {share:.1%}; {dict(statuses)}",
    )
    assert goodput >= 0.9
    assert longest <= QUEUE
    assert share == pytest.approx(0.75, rel=0.1)
    assert set(statuses) <= {200, 503}

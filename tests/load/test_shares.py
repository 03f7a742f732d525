"""Shares of 200 clients' tokens over workers of unequal speed, with a live router and real sockets."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.support.clients.exchanges import read_all, send
from tests.support.fleet.live import Fleet, fleet
from tests.support.tables import routing_table
from vllama_pool.router.upstream.client import UpstreamClient
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.simulated.options import Options

pytestmark = pytest.mark.load

SPEEDS = {"a": 0.5, "b": 0.5, "c": 1.0, "d": 1.0, "e": 1.0, "f": 1.5, "g": 2.0, "h": 2.0}
CLIENTS = 200
REGIMES = {
    "bound by arithmetic, some wait": Options(slots=16, tokens_per_second=20, total_tokens_per_second=120),
    "bound by memory, all run": Options(slots=64, tokens_per_second=10),
}
"""The speed of a worker limits either its total or each request."""
LONGEST, SHORTEST = 50, 10
"""Tokens of an answer."""
MEASURED = 5.0
"""Seconds."""
SETTLING = 5.0
"""Seconds from the start of a policy to its steady state."""
PERIODS = 8
"""Periods of measurement at most. A machine that others use too may spoil some of them, but a policy that is wrong is
wrong in each."""
FAIR = 0.15
"""Relative difference of a worker's share of the tokens from its share of the speed, twice as much at most if no period
is undisturbed. In turn, the slowest workers get more than twice their share."""
TABLE = routing_table(models={policy: {"serve": "m", "policy": policy} for policy in ("least-load", "round-robin")})


@dataclass(frozen=True)
class Shares:
    """Tokens that each worker generated in a period."""

    tokens: Mapping[str, int]
    requests: int
    seconds: float

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return sum(self.tokens.values()) / self.seconds

    def share(self, name: str) -> float:
        return self.tokens[name] / sum(self.tokens.values())

    def deviation(self, name: str) -> float:
        """Relative difference from the worker's share of the speed."""
        return self.share(name) / (SPEEDS[name] / sum(SPEEDS.values())) - 1

    @property
    def worst(self) -> float:
        return max(abs(self.deviation(name)) for name in self.tokens)

    def table(self, title: str) -> str:
        head = f"{title}: {self.rate:.0f} tokens/s, {self.requests} requests, off by {self.worst:.1%} at most"
        rows = [
            f"  {name}  speed {speed:<4} share of speed {speed / sum(SPEEDS.values()):6.1%}"
            f"  of tokens {self.share(name):6.1%}  deviation {self.deviation(name):+6.1%}"
            for name, speed in SPEEDS.items()
        ]
        return "\n".join([head, *rows])


async def test_least_load_shares_tokens_by_speed_and_round_robin_does_so_only_if_requests_wait(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    start, cpu = time.monotonic(), time.process_time()
    results = await asyncio.gather(
        *(measure_policies(tmp_path / str(number), REGIMES[name]) for number, name in enumerate(REGIMES))
    )
    cores = (time.process_time() - cpu) / (time.monotonic() - start)
    record_property("figure", f"{CLIENTS} clients of each fleet; all, with routers and workers, used {cores:.2f} cores")
    for name, (balanced, in_turn) in zip(REGIMES, results, strict=True):
        record_property("figure", balanced.table(f"least-load, {name}"))
        record_property("figure", in_turn.table(f"round-robin, {name}"))
    for balanced, in_turn in results:
        assert balanced.worst < 2 * FAIR, balanced.table("least-load")
        assert in_turn.requests > CLIENTS / 2
    waiting, running = results
    assert waiting[1].worst < 2 * FAIR, "requests that wait go to the worker that has room"
    assert running[1].worst > 0.25, running[1].table("round-robin")
    assert running[1].rate < running[0].rate


async def measure_policies(folder: Path, options: Options) -> tuple[Shares, Shares]:
    """Measure least-load and round-robin on workers with these options and the speeds above."""
    workers = {
        name: replace(options, model="m", speed=speed, ttft=0.02, answer_tokens=LONGEST)
        for name, speed in SPEEDS.items()
    }
    some_wait = options.slots * len(SPEEDS) < CLIENTS
    async with fleet(folder, workers, table=TABLE) as running:
        async with clients(running, "round-robin") as lengths:
            await asyncio.sleep(SETTLING)
            in_turn = await measure(running, lengths, lambda shares: shares.worst < FAIR or not some_wait)
        async with clients(running, "least-load") as lengths:  # the slow start is over by then
            await asyncio.sleep(SETTLING)
            least = 0.0 if some_wait else in_turn.rate
            balanced = await measure(running, lengths, lambda shares: shares.worst < FAIR and shares.rate > least)
    return balanced, in_turn


@asynccontextmanager
async def clients(running: Fleet, model: str) -> AsyncIterator[list[int]]:
    """Run clients without pause. Yields the growing list of answer lengths; a failed request fails the test."""
    lengths: list[int] = []
    port = int(running.url.rpartition(":")[2])
    client = UpstreamClient()
    rng = random.Random(7)

    async def run_client() -> None:
        while True:
            length = rng.randint(SHORTEST, LONGEST)
            message = {"role": "user", "content": "hello"}
            body = json.dumps({"model": model, "messages": [message], "options": {"num_predict": length}})
            response = await send(client, Endpoint("127.0.0.1", port), "POST", "/api/chat", body=body.encode())
            answer = await read_all(response)
            assert response.status == 200, answer
            last = json.loads(answer.splitlines()[-1])
            assert last["eval_count"] == length, last
            lengths.append(length)

    try:
        async with asyncio.TaskGroup() as tasks:
            running_clients = [tasks.create_task(run_client()) for _ in range(CLIENTS)]
            yield lengths
            for task in running_clients:
                task.cancel()
    finally:
        await client.aclose()


async def measure(running: Fleet, lengths: list[int], is_expected: Callable[[Shares], bool]) -> Shares:
    """Return the first period that is as expected, or the one that comes nearest to the speeds."""
    periods: list[Shares] = []
    for _ in range(PERIODS):
        before = {name: running[name].tokens for name in SPEEDS}
        requests, start = len(lengths), time.monotonic()
        await asyncio.sleep(MEASURED)
        tokens = {name: running[name].tokens - before[name] for name in SPEEDS}
        shares = Shares(tokens, len(lengths) - requests, time.monotonic() - start)
        if is_expected(shares):
            return shares
        periods.append(shares)
    return min(periods, key=lambda shares: shares.worst)

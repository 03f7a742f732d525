"""A fleet in simulated time: real pools, leases and policies over a queueing model of the engines.

It has no sockets and no vLLM protocol. workers/simulated generates every token, which takes too long for minutes of
64 engines.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from tests.support.balance import group
from vllama_pool.router.balance.lease import Completed, Lease
from vllama_pool.router.balance.policies.policy import Policy
from vllama_pool.router.balance.pool import Discovered, Pool
from vllama_pool.router.balance.select import choose
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerRecord

Throughput = Callable[[int], float]
"""Tokens per second of an engine by batch size."""


def shared(rate: float) -> Throughput:
    """`rate` for the whole batch: a compute-bound GPU."""
    return lambda running: rate


def streams(rate: float) -> Throughput:
    """`rate` per request: a memory-bound GPU."""
    return lambda running: rate * running


def batched(rate: float, half: float) -> Throughput:
    """Saturates at `rate`, with half of it at `half` requests: a real GPU."""
    return lambda running: rate * running / (running + half)


@dataclass
class Request:
    tokens: int
    sent: float = 0.0
    started: float = 0.0
    goal: float = 0.0
    lease: Lease | None = None
    done: Callable[[Request], None] = lambda request: None


class QueueModel:
    """Queueing model of an engine: `slots` requests share the throughput, the others wait in order."""

    def __init__(self, fleet: Fleet, throughput: Throughput, slots: int) -> None:
        self.fleet = fleet
        self.throughput = throughput
        self.slots = slots
        self.tokens = 0.0
        self.waits: list[float] = []
        self._running: list[tuple[float, int, Request]] = []
        self._waiting: deque[Request] = deque()
        self._each = 0.0
        self._at = 0.0
        self._turn = 0
        self._order = itertools.count()
        self._reported = (0.0, 0.0)

    def add(self, request: Request) -> None:
        self._advance()
        self._waiting.append(request)
        self._fill()

    def load(self) -> LoadReport:
        """Return an agent's load report."""
        self._advance()
        at, tokens = self._reported
        elapsed = self.fleet.now - at
        rate = (self.tokens - tokens) / elapsed if elapsed else 0.0
        self._reported = (self.fleet.now, self.tokens)
        return LoadReport(running=len(self._running), waiting=len(self._waiting), tokens_per_second=rate)

    def _advance(self) -> None:
        """Generate tokens up to now. `_each` counts the tokens of a request in the batch from the start."""
        count = len(self._running)
        if count:
            made = self.throughput(count) * (self.fleet.now - self._at)
            self.tokens += made
            self._each += made / count
        self._at = self.fleet.now

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self.slots:
            request = self._waiting.popleft()
            request.started = self.fleet.now
            self.waits.append(self.fleet.now - request.sent)
            heapq.heappush(self._running, (self._each + request.tokens, next(self._order), request))
        self._turn += 1
        if self._running:
            turn, count = self._turn, len(self._running)
            left = max(0.0, self._running[0][0] - self._each) * count / self.throughput(count)
            self.fleet.later(left, lambda: self._finish(turn))

    def _finish(self, turn: int) -> None:
        if turn != self._turn:
            return
        self._advance()
        finished = []
        while self._running and self._running[0][0] <= self._each + 1e-6:
            finished.append(heapq.heappop(self._running)[2])
        self._fill()
        for request in finished:
            request.done(request)


@dataclass
class Figures:
    """Results of a simulation."""

    tokens: list[float]
    """Per engine."""
    waits: list[float] = field(repr=False)
    """Seconds in the queue."""
    latencies: list[float] = field(repr=False)

    @property
    def shares(self) -> list[float]:
        return [tokens / sum(self.tokens) for tokens in self.tokens]

    def error(self, speeds: Sequence[float]) -> float:
        """Return the largest relative deviation of a share of tokens from the share of speed."""
        return max(abs(share * sum(speeds) / speed - 1) for share, speed in zip(self.shares, speeds, strict=True))

    def summary(self) -> str:
        def p99(values: list[float]) -> float:
            return statistics.quantiles(values, n=100)[98]

        return (
            f"latency {statistics.mean(self.latencies):.1f}/{p99(self.latencies):.0f} s, "
            f"wait {statistics.mean(self.waits):.2f}/{p99(self.waits):.1f} s, "
            f"{len(self.latencies)} requests, {sum(self.tokens):.0f} tokens"
        )


class Fleet:
    """Engines, routers and their clock.

    `beat`: seconds between reports. `age`: seconds from report to router.
    """

    def __init__(
        self,
        engines: Sequence[Throughput],
        policy: Callable[[], Policy],
        *,
        slots: int,
        routers: int = 1,
        beat: float = 1.0,
        age: float = 0.0,
        reports_speed: bool = True,
        speeds: Sequence[float] | None = None,
        seed: int = 1,
    ) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._latencies: list[float] = []
        self._age = age
        self._reports_speed = reports_speed
        self.engines = [QueueModel(self, throughput, slots) for throughput in engines]
        model = ModelInfo(name="m")
        found = {}
        for index in range(len(engines)):
            record = WorkerRecord(
                id=str(index),
                generation=1,
                url="http://worker",
                models=(model,),
                slots=slots,
                speed=speeds[index] if speeds else 1.0,
            )
            found[record.id] = Discovered(record, Endpoint("worker", 80))
        self.pools = [Pool(lambda: self.now) for _ in range(routers)]
        self._policies = [policy() for _ in range(routers)]
        for pool in self.pools:
            pool.put(*found.values())
        for index in range(len(engines)):
            self.later(self.rng.uniform(0, beat), partial(self._beat, index, beat))

    def later(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._order), action))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, action = heapq.heappop(self._events)
            action()

    def closed_loop(self, clients: int, tokens: Callable[[], int], think: float = 0.0) -> None:
        """Start clients that send a request `think` seconds at most after each answer."""

        def next_request(request: Request | None = None) -> None:
            self.later(self.rng.uniform(0, think), lambda: self.send(tokens(), next_request))

        for _ in range(clients):
            next_request()

    def arrivals(self, rate: float, tokens: Callable[[], int]) -> None:
        """Send `rate` requests per second at random."""

        def arrive() -> None:
            self.send(tokens())
            self.later(self.rng.expovariate(rate), arrive)

        arrive()

    def send(self, tokens: int, done: Callable[[Request], None] = lambda request: None) -> None:
        router = self.rng.randrange(len(self.pools))
        pool = self.pools[router]
        target = choose(group(pool), (), self.now, self.rng, self._policies[router])
        assert target is not None
        request = Request(tokens, self.now, lease=pool.lease(target.worker))
        request.done = lambda request: self._done(request, done)
        self.engines[int(target.worker.id)].add(request)

    def measure(self, warm_up: float, seconds: float) -> Figures:
        """Run, and measure after the first `warm_up` seconds."""
        self.run(warm_up)
        for engine in self.engines:
            engine.load()
            engine.waits.clear()
        before = [engine.tokens for engine in self.engines]
        self._latencies.clear()
        self.run(warm_up + seconds)
        for engine in self.engines:
            engine.load()
        return Figures(
            tokens=[engine.tokens - tokens for engine, tokens in zip(self.engines, before, strict=True)],
            waits=[wait for engine in self.engines for wait in engine.waits],
            latencies=list(self._latencies),
        )

    def _done(self, request: Request, then: Callable[[Request], None]) -> None:
        self._latencies.append(self.now - request.sent)
        assert request.lease is not None
        request.lease.release(Completed(request.tokens))
        then(request)

    def _beat(self, index: int, every: float) -> None:
        load = self.engines[index].load()
        if not self._reports_speed:
            load = LoadReport(running=load.running, waiting=load.waiting)

        def heard() -> None:
            for pool in self.pools:
                pool.report(str(index), load)

        self.later(self._age, heard)
        self.later(every, lambda: self._beat(index, every))


def answer_lengths(rng: random.Random, mean: float = 250.0, sigma: float = 1.1) -> Callable[[], int]:
    """Return a source of log-normal answer lengths in tokens, at most 4096."""

    centre = math.log(mean) - sigma * sigma / 2
    return lambda: max(1, min(4096, round(rng.lognormvariate(centre, sigma))))

"""Thousands of clients leave a router at random moments, and what stays of them is counted.

python -m tests.chaos --leavings 10000

Router, workers and clients share this process, so that the tasks and the objects of the router can be counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psutil

from tests.chaos.leavings import Leaving, Models, Moment, choose, leave
from tests.chaos.waiting import wait_until
from tests.support.fleet.live import Fleet, fleet
from vllama_pool.config.routing.table import parse
from vllama_pool.router.admission.queue import AdmissionQueue, Ticket
from vllama_pool.router.admission.worker_queue import Place, WorkerQueue
from vllama_pool.router.balance.lease import Lease
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.proxy.forward import Forwarder
from vllama_pool.router.proxy.in_flight import InFlight
from vllama_pool.router.proxy.stalls import StallWatch
from vllama_pool.router.server.http_protocol import BoundedProtocol
from vllama_pool.router.upstream.client import UpstreamClient
from vllama_pool.workers.simulated.options import Options

AT_ONCE = 100
PLACES = 1
"""Of models whose clients wait."""
LOOK = 0.01
"""Seconds between two counts of the clients that wait."""
ENDED = 20.0
"""Seconds until nothing of the last client is left, on a busy machine."""
OUTCOMES = {"complete", "client gone"}
MODELS = Models("short", "long", "late", ("full", "limited"), "embedding", "hearing")
MIB = 1 << 20

T = TypeVar("T")


def worker(model: str, **options: Any) -> Options:
    # Connections that no request uses are closed soon, so that descriptors come to rest.
    usual = {"slots": 2 * AT_ONCE, "tokens_per_second": 200, "ttft": 0.01, "answer_tokens": 100_000, "keep_alive": 1.0}
    return Options(model=model, **{**usual, **options})


WORKERS = {
    "a": worker("short", answer_tokens=6),
    "b": worker("long"),
    "c": worker("late", ttft=0.3),
    "d": worker("full", slots=PLACES),
    "e": worker("limited"),
    "f": worker("embedding", embedding=True),
    "g": worker("hearing", transcription=True, answer_tokens=6),
}
TABLE = f"models: {{limited: {{limits: {{concurrency: {PLACES}}}}}}}\n"


class Made:
    """The objects that were made since: the tracebacks of failed tests may hold others."""

    KINDS = (
        *(Forwarder, Pool, StallWatch, UpstreamClient, InFlight, BoundedProtocol),
        *(AdmissionQueue, WorkerQueue, Lease, Ticket, Place),
    )

    def __init__(self) -> None:
        self._earlier = {id(one): one for one in self._alive(self.KINDS)}

    def alive(self, kind: type[T]) -> list[T]:
        return [one for one in self._alive((kind,)) if id(one) not in self._earlier]

    def the(self, kind: type[T]) -> T:
        (one,) = self.alive(kind)
        return one

    @staticmethod
    def _alive(kinds: tuple[type[Any], ...]) -> list[Any]:
        return [one for one in gc.get_objects() if type(one) in kinds]


@dataclass(frozen=True)
class Counts:
    """Counts of things that requests hold. All but the descriptors and the tasks are 0 at rest."""

    descriptors: int
    """Without those for the registry, whose clients keep a number of connections of their own."""
    tasks: int
    requests: int
    connections: int
    """Of clients, but for the one that watches."""
    leases: int
    queue_places: int
    """Requests that wait, and those with a place in a queue."""
    watched: int
    """By the watch on stalled streams."""
    upstream: int
    """Connections to workers that a request uses, or that are being opened."""
    running: int
    """Requests in workers, those that wait in them included."""

    def left(self, base: Counts) -> dict[str, int]:
        """Return by how much each count is above the base."""
        before = asdict(base)
        return {name: count - before[name] for name, count in asdict(self).items() if count > before[name]}


@dataclass
class Leaks:
    """The findings of a run."""

    base: Counts
    after: Counts
    memory: tuple[int, int]
    """Bytes of this process, before and after."""
    seconds: float
    left: Counter[Moment] = field(default_factory=Counter)
    """Clients by the moment at which they left."""
    routes: int = 0
    waiting: int = 0
    """Most clients that waited for a place at once."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Of the requests that reached the router whole, by its log."""

    def problems(self) -> list[str]:
        found = [f"{name}: {count} above the base" for name, count in self.after.left(self.base).items()]
        found += [f"no client left {moment}" for moment in Moment if not self.left[moment]]
        found += [f"{count} requests ended as {kind}" for kind, count in self.outcomes.items() if kind not in OUTCOMES]
        return found if self.waiting else [*found, "no client waited for a place"]

    def text(self) -> str:
        before, after = asdict(self.base), asdict(self.after)
        counts = ", ".join(f"{name.replace('_', ' ')} {before[name]} -> {after[name]}" for name in before)
        moments = ", ".join(f"{count} {moment}" for moment, count in self.left.items())
        ended = ", ".join(f"{count} {kind}" for kind, count in self.outcomes.items())
        return (
            f"{self.left.total()} clients left on {self.routes} routes in {self.seconds:.1f} s: {moments}. "
            f"At most {self.waiting} waited for a place. The router logged {ended}.\n"
            f"Before -> after: {counts}; memory {self.memory[0] / MIB:.1f} -> {self.memory[1] / MIB:.1f} MiB."
        )


class Counting:
    """Counts what the requests of one router hold."""

    def __init__(self, running: Fleet, made: Made) -> None:
        self._running = running
        self._made = made
        self._process = psutil.Process()
        self._pool = made.the(Pool)
        self._stalls = made.the(StallWatch)
        self._client = made.the(UpstreamClient)
        self._forwarder = made.the(Forwarder)
        self._queues = made.alive(AdmissionQueue)
        self._worker_queues = made.alive(WorkerQueue)

    def now(self) -> Counts:
        gc.collect()
        made = self._made
        return Counts(
            descriptors=self._process.num_fds() - len(self._process.net_connections(kind="unix")),
            tasks=len(asyncio.all_tasks()),
            requests=len(made.alive(InFlight)) + number(self._forwarder, "in flight"),
            connections=max(0, len(made.alive(BoundedProtocol)) - 1),
            leases=self._pool.in_flight + sum(not lease.released for lease in made.alive(Lease)),
            queue_places=sum(queue.in_progress for queue in self._queues)
            + sum(not ticket.ended for ticket in made.alive(Ticket))
            + len(made.alive(Place))
            + self.waiting,
            watched=number(self._stalls, "watched"),
            upstream=number(self._client, "in use") + number(self._client, "connecting"),
            running=sum(one.worker.running + one.worker.waiting for one in self._running.workers.values()),
        )

    @property
    def waiting(self) -> int:
        return sum(queue.waiting for queue in self._queues) + sum(queue.waiting for queue in self._worker_queues)

    async def at_rest(self) -> Counts:
        """Wait until no connection to a worker is open, and return the counts."""
        await wait_until(lambda: number(self._client, "idle") == 0, ENDED, "no connection to a worker is open")
        return self.now()


def number(shown: object, what: str) -> int:
    """Return the number before these words in an object's repr, such as 3 for "idle" in "<UpstreamClient 3 idle>"."""
    before = repr(shown).partition(f" {what}")[0]
    return int(before.rpartition(" ")[2])


async def run(folder: Path, clients: int, *, seed: int = 9) -> Leaks:
    """Let so many clients leave. Raises AssertionError if the system does not start, or does not come to rest."""
    rng, made = random.Random(seed), Made()
    async with fleet(folder, WORKERS, table=parse(TABLE.encode())) as running:
        port = urlsplit(running.url).port
        assert port is not None
        await batch(port, [choose(rng, MODELS) for _ in range(AT_ONCE)])
        counting = Counting(running, made)
        base = await counting.at_rest()
        memory = psutil.Process().memory_info().rss
        logged = len(running.records())
        left, routes, waiting = Counter[Moment](), set[str](), 0
        start = time.monotonic()
        for begun in range(0, clients, AT_ONCE):
            leavings = [choose(rng, MODELS) for _ in range(min(AT_ONCE, clients - begun))]
            routes |= {str(one.request) for one in leavings}
            leaving = asyncio.create_task(batch(port, leavings))
            while not leaving.done():
                await asyncio.wait((leaving,), timeout=LOOK)
                waiting = max(waiting, counting.waiting)
            await leaving
            left.update(one.moment for one in leavings)
        took = time.monotonic() - start
        after = await settled(counting, base)
        outcomes = Counter(str(one["outcome"]) for one in running.records()[logged:] if one.get("model"))
        assert (await running.http.get("/api/version")).status_code == 200
        sizes = (memory, psutil.Process().memory_info().rss)
        return Leaks(base, after, sizes, took, left, len(routes), waiting, outcomes)


async def batch(port: int, leavings: list[Leaving]) -> None:
    await asyncio.gather(*(leave(port, one) for one in leavings))


async def settled(counting: Counting, base: Counts) -> Counts:
    """Return the counts once they are back at the base, or those at the end of the patience."""

    async def back() -> bool:
        return not (await counting.at_rest()).left(base)

    with contextlib.suppress(AssertionError):
        await wait_until(back, ENDED, "the counts are at their base", interval=0.1)
    return counting.now()

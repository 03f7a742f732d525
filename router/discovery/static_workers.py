"""Asking workers themselves, beside their beats: doubted ones for a sign of life, static ones for everything.

Control traffic through httpx, never on a request's path.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable

import httpx

from vllama_pool.config.routing.table import StaticWorker
from vllama_pool.router.balance.pool import Discovered
from vllama_pool.router.discovery.membership import TTL, ProbeAnswer, WorkerSink
from vllama_pool.router.discovery.networks import parse_url
from vllama_pool.router.discovery.registry_loop import Ask
from vllama_pool.router.discovery.trust import Endpoints
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.record import Load, ModelInfo, WorkerRecord, WorkerState
from vllama_pool.workers.vllm import probe
from vllama_pool.workers.vllm.abilities import abilities
from vllama_pool.workers.vllm.probe import Health, Metrics, ProbeFailed, ProbeResult

INTERVAL = 1.0
"""Seconds between two looks at a static worker, give or take a tenth."""
WHOLE_EVERY = 10
"""Looks between two whole ones: models and version change rarely."""
ASK_AGAIN = 10.0
"""Seconds until a worker that was too busy to show what it can is asked again; twice as long each further time."""
ASKED_AT_MOST = 7
"""Times: a quarter of an hour."""
ANSWER_TIMEOUT = 1.0
"""Seconds that the client of `asker` should allow."""
NOT_REACHED = "not reached yet"
STATIC = "static/"
"""What ids of static workers begin with; no registered one's can."""

_log = logging.getLogger(__name__)

_ANSWERS = {
    Health.OK: ProbeAnswer.UP,
    Health.STARTING: ProbeAnswer.GONE,
    Health.DEAD: ProbeAnswer.GONE,
    Health.UNREACHABLE: ProbeAnswer.NONE,
}


def asker(client: httpx.AsyncClient, key: str | None) -> Ask:
    """Asks for a worker's /health. The time-outs are the client's: ANSWER_TIMEOUT suits."""

    async def ask(found: Discovered) -> ProbeAnswer:
        endpoint = found.endpoint
        return _ANSWERS[await probe.check_health(client, _url(endpoint), key, endpoint.server_name)]

    return ask


class StaticWorkers:
    """Looks after the workers of the routing file. `run` is the only task its owner needs."""

    def __init__(
        self,
        workers: Iterable[StaticWorker],
        pool: WorkerSink,
        client: httpx.AsyncClient,
        endpoints: Endpoints,
        *,
        key: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watches = [StaticWatch(worker, pool, client, endpoints, key, clock) for worker in workers]

    async def run(self) -> None:
        """Look at each about every second until cancelled. They stay in the pool afterwards."""
        async with asyncio.TaskGroup() as tasks:
            for watch in self._watches:
                tasks.create_task(watch.run(), name=f"static worker {watch.worker.name}")


class StaticWatch:
    """One static worker. A failed look suspects it; one that says it is gone, or TTL of failures, puts it out."""

    def __init__(
        self,
        worker: StaticWorker,
        pool: WorkerSink,
        client: httpx.AsyncClient,
        endpoints: Endpoints,
        key: str | None,
        clock: Callable[[], float],
    ) -> None:
        self.worker = worker
        self._pool = pool
        self._client = client
        self._key = key
        self._clock = clock
        self._id = STATIC + worker.name
        self._endpoint = endpoints.of(parse_url(worker.url))
        self._generation = 1
        self._models: tuple[ModelInfo, ...] = ()
        self._seen = ProbeResult(Health.UNREACHABLE)
        """The latest whole look that went well."""
        self._load_seen = Load(state=WorkerState.STOPPED)
        self._able: tuple[str, ...] = ()
        self._asked = 0
        """Times that this generation was asked for what it can."""
        self._ask_at: float | None = 0.0
        """On the clock, when it may be asked next; None once all is known."""
        self._version = ""
        self._looks = 0
        self._well = False
        self._failing_since: float | None = None
        self._problem = ""
        self._counted: tuple[float, int] | None = None

    async def run(self) -> None:
        self._put_out(NOT_REACHED)  # known from the start, so that its absence is told from a wrong name
        learning: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self.look()
                if self.curious and (learning is None or learning.done()):
                    learning = tasks.create_task(self.learn())  # it serves, and is looked at, while it is asked
                await asyncio.sleep(INTERVAL * random.uniform(0.9, 1.1))

    async def look(self) -> None:
        """Ask it once, and tell the pool."""
        whole = not self._well or self._looks % WHOLE_EVERY == 0
        self._looks += 1
        result = await (probe.probe(self._client, self.worker.url, self._key) if whole else self._brief())
        if result.health is not Health.OK:
            self._failed(result)
            return
        self._answered(result, whole)

    async def _brief(self) -> ProbeResult:
        """Health and load only."""
        health = await probe.check_health(self._client, self.worker.url, self._key)
        if health is not Health.OK:
            return ProbeResult(health, problem=f"{self.worker.url} is not healthy any more")
        try:
            metrics = await probe.scrape(self._client, self.worker.url, self._key)
        except ProbeFailed as error:
            return ProbeResult(Health.UNREACHABLE, problem=str(error))
        return ProbeResult(Health.OK, metrics=metrics)

    @property
    def curious(self) -> bool:
        """Whether it is to be asked now for what its routes do not tell."""
        due = self._ask_at is not None and self._clock() >= self._ask_at
        awake = self._load_seen.state is WorkerState.READY
        return self._well and awake and due and "completion" in self._seen.tasks and bool(self._models)

    async def learn(self) -> None:
        """Ask it for that."""
        generation = self._generation
        shown = await abilities(self._client, self.worker.url, self._models[0].name, self._key)
        if not self._well or self._generation != generation:
            return
        self._asked += 1
        known = shown.settled or self._asked >= ASKED_AT_MOST
        self._ask_at = None if known else self._clock() + ASK_AGAIN * 2 ** (self._asked - 1)
        if fresh := [name for name in shown.able if name not in self._able]:
            self._able = (*self._able, *fresh)
            self._models = self._described()
            self._pool.put(Discovered(self._record(), self._endpoint, self._load_seen))

    def _described(self) -> tuple[ModelInfo, ...]:
        return probe.model_infos(self._seen.models, (*self._seen.tasks, *self._able))

    def _ask_anew(self) -> None:
        self._able, self._asked, self._ask_at = (), 0, 0.0

    def _answered(self, result: ProbeResult, whole: bool) -> None:
        load = self._load_seen = self._load(result.metrics)
        restarted = self._restarted(result.metrics)
        self._generation += restarted
        renewed = restarted or not self._well
        if restarted:
            self._ask_anew()
        if whole:
            self._seen = result
            models = self._described()
            renewed = renewed or (models, result.version) != (self._models, self._version)
            self._models, self._version = models, result.version
        self._counted = (self._clock(), result.metrics.generation_tokens)
        if not self._well:
            _log.info("static worker %s serves %s", self.worker.name, ", ".join(m.name for m in self._models))
        if renewed:
            self._pool.put(Discovered(self._record(), self._endpoint, load))
        if self._failing_since is not None:
            self._pool.mark_up(self._id)
        self._well, self._failing_since, self._problem = True, None, ""
        self._pool.report(self._id, load)

    def _failed(self, result: ProbeResult) -> None:
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        self._pool.mark_suspect(self._id)
        if result.health is not Health.UNREACHABLE or now - self._failing_since >= TTL:
            self._out(result.problem)

    def _out(self, problem: str) -> None:
        if problem == self._problem:
            return
        _log.warning("static worker %s is out: %s", self.worker.name, problem)
        self._put_out(problem)

    def _put_out(self, problem: str) -> None:
        self._problem, self._well = problem, False
        self._ask_anew()
        load = Load(state=WorkerState.STOPPED, note=problem)
        self._pool.put(Discovered(self._record(), self._endpoint, load))
        self._pool.mark_down(self._id)

    def _record(self) -> WorkerRecord:
        return WorkerRecord(
            id=self._id,
            generation=self._generation,
            url=self.worker.url,
            models=self._models,
            slots=self.worker.slots,
            engine_version=self._version,
            tags=self.worker.tags,
        )

    def _restarted(self, metrics: Metrics) -> bool:
        """Its counter of tokens has fallen: it is another process than at the last look."""
        return self._counted is not None and metrics.generation_tokens < self._counted[1]

    def _load(self, metrics: Metrics) -> Load:
        speed = 0.0
        if self._counted is not None:
            at, tokens = self._counted
            passed = self._clock() - at
            made = metrics.generation_tokens - tokens
            speed = made / passed if passed > 0 and made > 0 else 0.0
        return probe.to_load(metrics, tokens_per_second=speed)


def _url(endpoint: Endpoint) -> str:
    scheme = "http" if endpoint.tls is None else "https"
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{scheme}://{host}:{endpoint.port}{endpoint.prefix}"

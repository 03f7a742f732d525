"""Probes over HTTP: of the routing file's static workers, and of registered workers whose beats are late."""

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
from vllama_pool.router.discovery.registry_loop import Probe
from vllama_pool.router.discovery.trust import Endpoints
from vllama_pool.router.upstream.interface import Endpoint
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerRecord, WorkerState
from vllama_pool.workers.vllm import probe
from vllama_pool.workers.vllm.abilities import detect_abilities
from vllama_pool.workers.vllm.probe import Health, Metrics, ProbeFailed, ProbeResult

INTERVAL = 1.0
"""Seconds, with 10 % jitter."""
FULL_PROBE_EVERY = 10
"""Every tenth probe also reads models and version."""
LEARN_RETRY = 10.0
"""Seconds until detection on a busy worker is retried; doubled each time."""
MAX_LEARN_TRIES = 7
"""Together about a quarter of an hour."""
PROBE_TIMEOUT = 1.0
"""Seconds, for the client of `health_probe`."""
NOT_REACHED = "not reached yet"
STATIC = "static/"
"""Prefix of ids, which registered workers cannot have."""

_log = logging.getLogger(__name__)

_ANSWERS = {
    Health.OK: ProbeAnswer.UP,
    Health.STARTING: ProbeAnswer.GONE,
    Health.DEAD: ProbeAnswer.GONE,
    Health.UNREACHABLE: ProbeAnswer.NONE,
}


def health_probe(client: httpx.AsyncClient, key: str | None) -> Probe:
    """Probe with GET /health. `client` should have PROBE_TIMEOUT."""

    async def run(found: Discovered) -> ProbeAnswer:
        endpoint = found.endpoint
        return _ANSWERS[await probe.check_health(client, _url(endpoint), key, endpoint.server_name)]

    return run


class StaticWorkers:
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
        async with asyncio.TaskGroup() as tasks:
            for watch in self._watches:
                tasks.create_task(watch.run(), name=f"static worker {watch.worker.name}")


class StaticWatch:
    """Probes one static worker. A failed probe marks it suspect; TTL of failures, or a refused connection, down."""

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
        self._endpoint = endpoints.build(parse_url(worker.url))
        self._generation = 1
        self._models: tuple[ModelInfo, ...] = ()
        self._full_probe = ProbeResult(Health.UNREACHABLE)
        """The latest that succeeded."""
        self._last_load = LoadReport(state=WorkerState.STOPPED)
        self._abilities: tuple[str, ...] = ()
        self._learn_tries = 0
        self._learn_at: float | None = 0.0
        """None once all abilities are known."""
        self._version = ""
        self._probes = 0
        self._up = False
        self._failing_since: float | None = None
        self._problem = ""
        self._last_tokens: tuple[float, int] | None = None

    async def run(self) -> None:
        self._mark_down(NOT_REACHED)  # in the pool from the start, so that its models give a 503, not a 404
        learning: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self.probe()
                if self.should_learn and (learning is None or learning.done()):
                    learning = tasks.create_task(self.learn())
                await asyncio.sleep(INTERVAL * random.uniform(0.9, 1.1))

    async def probe(self) -> None:
        full = not self._up or self._probes % FULL_PROBE_EVERY == 0
        self._probes += 1
        result = await (probe.probe(self._client, self.worker.url, self._key) if full else self._brief_probe())
        if result.health is not Health.OK:
            self._failed(result)
            return
        self._succeeded(result, full)

    async def _brief_probe(self) -> ProbeResult:
        health = await probe.check_health(self._client, self.worker.url, self._key)
        if health is not Health.OK:
            return ProbeResult(health, problem=f"{self.worker.url} is not healthy")
        try:
            metrics = await probe.scrape(self._client, self.worker.url, self._key)
        except ProbeFailed as error:
            return ProbeResult(Health.UNREACHABLE, problem=str(error))
        return ProbeResult(Health.OK, metrics=metrics)

    @property
    def should_learn(self) -> bool:
        """True if its abilities are to be detected now."""
        due = self._learn_at is not None and self._clock() >= self._learn_at
        awake = self._last_load.state is WorkerState.READY
        return self._up and awake and due and "completion" in self._full_probe.tasks and bool(self._models)

    async def learn(self) -> None:
        """Detect tools, thinking and vision, and update the pool."""
        generation = self._generation
        detected = await detect_abilities(self._client, self.worker.url, self._models[0].name, self._key)
        if not self._up or self._generation != generation:
            return
        self._learn_tries += 1
        complete = detected.complete or self._learn_tries >= MAX_LEARN_TRIES
        self._learn_at = None if complete else self._clock() + LEARN_RETRY * 2 ** (self._learn_tries - 1)
        if fresh := [name for name in detected.abilities if name not in self._abilities]:
            self._abilities = (*self._abilities, *fresh)
            self._models = self._model_infos()
            self._pool.put(Discovered(self._record(), self._endpoint, self._last_load))

    def _model_infos(self) -> tuple[ModelInfo, ...]:
        return probe.model_infos(self._full_probe.models, (*self._full_probe.tasks, *self._abilities))

    def _forget_abilities(self) -> None:
        self._abilities, self._learn_tries, self._learn_at = (), 0, 0.0

    def _succeeded(self, result: ProbeResult, full: bool) -> None:
        load = self._last_load = self._load(result.metrics)
        restarted = self._restarted(result.metrics)
        self._generation += restarted
        renewed = restarted or not self._up
        if restarted:
            self._forget_abilities()
        if full:
            self._full_probe = result
            models = self._model_infos()
            renewed = renewed or (models, result.version) != (self._models, self._version)
            self._models, self._version = models, result.version
        self._last_tokens = (self._clock(), result.metrics.generation_tokens)
        if not self._up:
            _log.info("static worker %s serves %s", self.worker.name, ", ".join(m.name for m in self._models))
        if renewed:
            self._pool.put(Discovered(self._record(), self._endpoint, load))
        if self._failing_since is not None:
            self._pool.mark_up(self._id)
        self._up, self._failing_since, self._problem = True, None, ""
        self._pool.report(self._id, load)

    def _failed(self, result: ProbeResult) -> None:
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        self._pool.mark_suspect(self._id)
        over = result.health is not Health.UNREACHABLE or now - self._failing_since >= TTL
        if over and result.problem != self._problem:
            _log.warning("static worker %s is down: %s", self.worker.name, result.problem)
            self._mark_down(result.problem)

    def _mark_down(self, problem: str) -> None:
        self._problem, self._up = problem, False
        self._forget_abilities()
        load = LoadReport(state=WorkerState.STOPPED, note=problem)
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
        """True if the token counter has fallen."""
        return self._last_tokens is not None and metrics.generation_tokens < self._last_tokens[1]

    def _load(self, metrics: Metrics) -> LoadReport:
        speed = 0.0
        if self._last_tokens is not None:
            at, tokens = self._last_tokens
            passed = self._clock() - at
            made = metrics.generation_tokens - tokens
            speed = made / passed if passed > 0 and made > 0 else 0.0
        return probe.to_load(metrics, tokens_per_second=speed)


def _url(endpoint: Endpoint) -> str:
    scheme = "http" if endpoint.tls is None else "https"
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{scheme}://{host}:{endpoint.port}{endpoint.prefix}"

"""Probes one static worker of the routing file, over HTTP."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx
from msgspec.structs import replace

from vllama_pool.config.printable import shortlist
from vllama_pool.config.routing.table import STATIC
from vllama_pool.router.balance.pool import Discovered
from vllama_pool.router.discovery.membership import TTL, WorkerSink
from vllama_pool.router.discovery.model_lists import ModelLists
from vllama_pool.router.discovery.networks import parse_url
from vllama_pool.router.discovery.trust import Endpoints
from vllama_pool.workers.registry.record import LoadReport, ModelInfo, WorkerRecord, WorkerState
from vllama_pool.workers.vllm import probe
from vllama_pool.workers.vllm.abilities import detect_abilities
from vllama_pool.workers.vllm.ability_schedule import AbilitySchedule
from vllama_pool.workers.vllm.probe import Health, Metrics, ProbeFailed, ProbeResult
from vllama_pool.workers.vllm.server_identity import SEVERAL_SERVERS, ServerIdentity, Sighting

if TYPE_CHECKING:
    from vllama_pool.config.routing.schema import WorkerEntry

INTERVAL = 1.0
"""Seconds, with 10 % jitter."""
FULL_PROBE_EVERY = 10
"""Every tenth probe also reads models and version."""
NOT_REACHED = "not reached yet"
SHOWN_LENGTH = 120
"""Characters of a model's name in the log."""

_log = logging.getLogger(__name__)


class StaticWatch:
    """Probes one static worker. A failed probe marks it suspect; TTL of failures, or a refused connection, down.

    Several servers behind the address are down only after TTL: the next probe may reach another one.
    """

    def __init__(
        self,
        worker: WorkerEntry,
        pool: WorkerSink,
        client: httpx.AsyncClient,
        endpoints: Endpoints,
        key: str | None,
        clock: Callable[[], float],
        *,
        generation: int = 1,
    ) -> None:
        """`generation`: above that of an earlier watch of the same name."""
        self.worker = worker
        self.id = STATIC + worker.label
        self.generation = generation
        self.up = False
        self.probed = asyncio.Event()
        """Set after the first probe."""
        self._pool = pool
        self._client = client
        self._key = key
        self._clock = clock
        self._endpoint = endpoints.build(parse_url(worker.url))
        self._models: tuple[ModelInfo, ...] = ()
        self._lists = ModelLists()
        self._full_probe = ProbeResult(Health.UNREACHABLE)
        """The latest that succeeded."""
        self._last_load = LoadReport(state=WorkerState.STOPPED)
        self._identity = ServerIdentity()
        self._reported_several = False
        self._returns = False
        """True if the server that was gone answered again without a restart: failures of a proxy before it."""
        self._schedule = AbilitySchedule()
        self._version = ""
        self._probes = 0
        self._gone = False
        """True if it is down because its server said so, or nothing listens there."""
        self._failing_since: float | None = None
        self._problem = ""
        self._last_tokens: tuple[float, int] | None = None

    async def run(self) -> None:
        learning: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self.probe()
                self.probed.set()
                if self.should_learn and (learning is None or learning.done()):
                    learning = tasks.create_task(self.learn())
                await asyncio.sleep(INTERVAL * random.uniform(0.9, 1.1))

    def serves(self, worker: WorkerEntry | None) -> bool:
        """True if this watch is of that worker, whatever its slots and tags."""
        return worker is not None and (worker.label, worker.url) == (self.worker.label, self.worker.url)

    def update(self, worker: WorkerEntry) -> None:
        """Take over slots and tags."""
        if worker != self.worker:
            self.worker = worker
            self._pool.put(Discovered(self._record(), self._endpoint))

    def mark_unreached(self) -> None:
        """Enter it into the pool before it has answered, so that its models give a 503, not a 404."""
        self._mark_down(NOT_REACHED)

    async def probe(self) -> None:
        full = not self.up or self._probes % FULL_PROBE_EVERY == 0
        self._probes += 1
        result = await (probe.probe(self._client, self.worker.url, self._key) if full else self._brief_probe())
        if result.health is not Health.OK:
            self._failed(result)
            return
        self._succeeded(result, full)

    async def _brief_probe(self) -> ProbeResult:
        client, url, key = self._client, self.worker.url, self._key
        result = await probe.examine(client, url, key)
        if result.health is not Health.OK:
            return result
        try:
            if self._identity.unconfirmed:
                self._observe(await probe.scrape(client, url, key, last=True))
            metrics = await probe.scrape(client, url, key, last=self._identity.unconfirmed)
        except ProbeFailed as error:
            return ProbeResult(Health.UNREACHABLE, problem=str(error))
        return ProbeResult(Health.OK, metrics=metrics)

    @property
    def should_learn(self) -> bool:
        """True if its abilities are to be detected now."""
        due = self._schedule.is_due(self._clock())
        awake = self._last_load.state is WorkerState.READY
        return self.up and awake and due and "completion" in self._full_probe.tasks and bool(self._models)

    async def learn(self) -> None:
        """Detect tools, thinking and vision, and update the pool."""
        version = self._schedule.version
        detected = await detect_abilities(self._client, self.worker.url, self._models[0].name, self._key)
        if self._schedule.answered(detected, version, self._clock()) and self.up:
            self._models = self._model_infos()
            self._pool.put(Discovered(self._record(), self._endpoint, self._last_load))

    def _model_infos(self) -> tuple[ModelInfo, ...]:
        served, schedule = self._full_probe, self._schedule
        undetected = schedule.undetected if "completion" in served.tasks else ()
        return probe.model_infos(served.models, (*served.tasks, *schedule.abilities), undetected)

    def _succeeded(self, result: ProbeResult, full: bool) -> None:
        self._returns = self._returns or (self._gone and self._identity.is_known(result.metrics.observation))
        renewed = self._observe(result.metrics) or not self.up
        if full:
            renewed = self._update_models(result) or renewed
        self._report_several()
        load = self._last_load = self._load(result.metrics)
        if not self.up:
            _log.info(
                "static worker %s serves %s",
                self.worker.label,
                shortlist([model.name[:SHOWN_LENGTH] for model in self._models]),
            )
        if renewed:
            self._pool.put(Discovered(self._record(), self._endpoint, load))
        if self._failing_since is not None:
            self._pool.mark_up(self.id)
        self.up, self._gone, self._failing_since, self._problem = True, False, None, ""
        self._pool.report(self.id, load)

    def _observe(self, metrics: Metrics) -> bool:
        """Return True for a new generation."""
        sighting = self._identity.observe(metrics.observation)
        if sighting is Sighting.RESTARTED:
            self._schedule.renew(self._clock())
        new = sighting is Sighting.CHANGED or (sighting is Sighting.RESTARTED and not self.up)
        if new:
            self.generation += 1
            self._schedule.doubt()
            self._models = self._model_infos()
        return new

    def _update_models(self, result: ProbeResult) -> bool:
        """Return True if the models or the version changed."""
        self._lists.add(result)
        if self._lists.alternate:
            self._identity.mark_several()
        before = self._full_probe.models[:1]
        self._full_probe = agreed = self._lists.agreed(several=self._identity.several)
        if before and agreed.models and before[0].name != agreed.models[0].name:
            self._schedule.renew(self._clock(), forget=True)
        models = self._model_infos()
        changed = (models, agreed.version) != (self._models, self._version)
        self._models, self._version = models, agreed.version
        return changed

    def _report_several(self) -> None:
        if self._identity.several and not self._reported_several:
            self._reported_several = True
            _log.warning("static worker %s at %s: %s", self.worker.label, self.worker.url, SEVERAL_SERVERS)

    def _failed(self, result: ProbeResult) -> None:
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        self._pool.mark_suspect(self.id)
        gone = result.health is not Health.UNREACHABLE and not (self._identity.several or self._returns)
        over = gone or now - self._failing_since >= TTL
        if over and result.problem != self._problem:
            _log.warning("static worker %s is down: %s", self.worker.label, result.problem)
            self._gone = gone
            self._mark_down(result.problem)

    def _mark_down(self, problem: str) -> None:
        self._problem, self.up = problem, False
        self._identity.interrupt()
        self._lists.clear()
        load = LoadReport(state=WorkerState.STOPPED, note=problem)
        self._pool.put(Discovered(self._record(), self._endpoint, load))
        self._pool.mark_down(self.id)

    def _record(self) -> WorkerRecord:
        return WorkerRecord(
            id=self.id,
            generation=self.generation,
            url=self.worker.url,
            models=self._models,
            slots=self.worker.slots,
            engine_version=self._version,
            tags=self.worker.tags,
        )

    def _load(self, metrics: Metrics) -> LoadReport:
        """The speed is 0 while the latest two counters may be of different servers."""
        speed, now = 0.0, self._clock()
        if self._last_tokens is not None and self._identity.certain:
            at, tokens = self._last_tokens
            passed, made = now - at, metrics.generation_tokens - tokens
            speed = made / passed if passed > 0 and made > 0 else 0.0
        self._last_tokens = (now, metrics.generation_tokens)
        note = SEVERAL_SERVERS if self._identity.several else ""
        return replace(probe.to_load(metrics, tokens_per_second=speed), note=note)

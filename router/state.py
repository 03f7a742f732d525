"""The state of one router process, which a reload of the routing file keeps."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import BinaryIO

from vllama_pool.config.durations import FOREVER
from vllama_pool.config.routing.table import RoutingTable
from vllama_pool.config.settings import RouterSettings
from vllama_pool.router.admission.admission import Admission
from vllama_pool.router.admission.entry_limits import request_limits
from vllama_pool.router.admission.turns import Turns
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.instance import RouterInstance
from vllama_pool.router.protocol.ollama.expiry import ExpiryTracker
from vllama_pool.router.protocol.operation import Clock
from vllama_pool.router.routing.live import LiveRoutes
from vllama_pool.router.routing.maintenance import Maintenance
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.server.refusal import Reason
from vllama_pool.router.telemetry.canary_metrics import CanaryMetrics
from vllama_pool.router.telemetry.decisions import Decisions
from vllama_pool.router.telemetry.families import Family
from vllama_pool.router.telemetry.lease_metrics import LeaseMetrics
from vllama_pool.router.telemetry.metrics import Readings, RouterMetrics
from vllama_pool.router.telemetry.recent_names import RecentNames
from vllama_pool.router.telemetry.request_log import RequestLog
from vllama_pool.router.telemetry.routing_file import RoutingFileState
from vllama_pool.router.telemetry.shadow_metrics import ShadowMetrics
from vllama_pool.router.upstream.interface import Client
from vllama_pool.router.virtual_models.store import ModelStore
from vllama_pool.router.wiring import Sources, open_sources

FileState = Callable[[], RoutingFileState | None]
"""Returns the state of the routing file; None without one that is watched."""


@dataclass(frozen=True, slots=True)
class Collaborators:
    """Collaborators that tests replace."""

    client: Client
    clock: Clock
    rng: random.Random
    log_stream: BinaryIO


@dataclass(frozen=True, slots=True)
class RouterState:
    pool: Pool
    virtual_models: ModelStore
    routes: LiveRoutes
    sources: Sources
    admission: Admission
    expiry: ExpiryTracker
    decisions: Decisions
    names: RecentNames
    request_log: RequestLog
    shadow_metrics: ShadowMetrics
    canary_metrics: CanaryMetrics
    lease_metrics: LeaseMetrics
    metrics: RouterMetrics


def open_state(
    settings: RouterSettings,
    table: RoutingTable,
    collaborators: Collaborators,
    instance: RouterInstance,
    file_state: FileState,
    connections: Callable[[], Iterable[Family]],
) -> RouterState:
    """`instance`: this process. `connections`: metrics of clients' connections."""
    processes = instance.total  # that share the limits
    pool = Pool(time.monotonic, processes)
    pool.set_aside(Maintenance(table).message)
    virtual_models = ModelStore()
    routes = LiveRoutes(
        table,
        lambda table, before: ModelRoutes(table, collaborators.rng, virtual=virtual_models.live, previous=before),
    )
    sources = open_sources(settings, table.workers, pool, virtual_models, lambda: routes().shadowed(pool), instance)
    request_log = RequestLog(collaborators.log_stream, debug=settings.log_level == "debug")
    admission = Admission(settings.max_queue, Turns(pool.vacancies, _later, time.monotonic), processes)
    admission.set_limits(request_limits(table))
    shadow_metrics, canary_metrics, lease_metrics = ShadowMetrics(), CanaryMetrics(), LeaseMetrics()
    readings = Readings(
        workers=pool,
        now=time.monotonic,
        registry_up=lambda: sources.discovery.registry_up,
        refused_records=lambda: sources.discovery.refusals,
        dropped_log_lines=lambda: request_log.dropped,
        queues=admission.queues,
        worker_queues=admission.worker_queues,
        wanted=admission.wanted,
        routing_file=file_state,
        shadows=shadow_metrics.families,
        canaries=canary_metrics.families,
        leases=lease_metrics.families,
        connections=connections,
        panics=pool.panics,
        poison=lambda: (sources.poison.refusals, len(sources.poison.listed())),
    )
    return RouterState(
        pool=pool,
        virtual_models=virtual_models,
        routes=routes,
        sources=sources,
        admission=admission,
        expiry=ExpiryTracker(_keep_alive(settings)),
        decisions=Decisions(settings.decisions),
        names=RecentNames(collaborators.clock.monotonic_ns),
        request_log=request_log,
        shadow_metrics=shadow_metrics,
        canary_metrics=canary_metrics,
        lease_metrics=lease_metrics,
        metrics=RouterMetrics(readings, tuple(Reason)),
    )


def _later(delay: float, action: Callable[[], None]) -> asyncio.Handle:
    loop = asyncio.get_running_loop()
    return loop.call_later(delay, action) if delay else loop.call_soon(action)


def _keep_alive(settings: RouterSettings) -> int:
    """Return nanoseconds."""
    return FOREVER if settings.keep_alive == float("inf") else int(settings.keep_alive * 1e9)

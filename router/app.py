"""Builds the ASGI application of one router process."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from litestar import Litestar
from litestar.handlers import BaseRouteHandler
from litestar.routes import HTTPRoute

from vllama_pool.config.durations import FOREVER
from vllama_pool.config.routing.table import RoutingTable, load
from vllama_pool.config.routing.watch import FileWatch, Watched
from vllama_pool.config.settings import RouterSettings
from vllama_pool.router.admission.admission import Admission
from vllama_pool.router.admission.entry_limits import request_limits
from vllama_pool.router.admission.grant import Grant
from vllama_pool.router.admission.keyring import Keyring
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.discovery.registry_loop import Discovery
from vllama_pool.router.explainer import ModelExplainer
from vllama_pool.router.handlers.admin import admin_routes
from vllama_pool.router.handlers.catalogue import catalogue_routes
from vllama_pool.router.handlers.explain import explain_routes
from vllama_pool.router.handlers.inference import InferenceHandler
from vllama_pool.router.handlers.models import model_routes
from vllama_pool.router.handlers.openai_models import openai_model_routes
from vllama_pool.router.instance import RouterInstance
from vllama_pool.router.last_table import LastTable
from vllama_pool.router.protocol.clock import SystemClock
from vllama_pool.router.protocol.ollama.expiry import ExpiryTracker, ModelUses
from vllama_pool.router.protocol.ollama.fixed_routes import FIXED_ROUTES
from vllama_pool.router.protocol.operation import Clock
from vllama_pool.router.protocol.table import operations
from vllama_pool.router.proxy.attempt import Upstream
from vllama_pool.router.proxy.forward import Forwarder
from vllama_pool.router.proxy.in_flight import Shared
from vllama_pool.router.proxy.shadow import Shadows
from vllama_pool.router.proxy.stalls import StallLimits, StallWatch
from vllama_pool.router.proxy.timeouts import Timeouts, TimeoutTable
from vllama_pool.router.reload import Fleet, Prepare, Reloader, ReloadRequest
from vllama_pool.router.routing.live import LiveRoutes
from vllama_pool.router.routing.maintenance import Maintenance
from vllama_pool.router.routing.orphans import WorkerChanges, find_orphans
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.server.access import Access
from vllama_pool.router.server.asgi import App
from vllama_pool.router.server.dispatch import Dispatcher
from vllama_pool.router.server.error_handlers import EXCEPTION_HANDLERS
from vllama_pool.router.server.gate import Gate
from vllama_pool.router.server.refusal import Reason, Refusal
from vllama_pool.router.server.refusal_log import RefusalLog
from vllama_pool.router.telemetry.aggregate import ProcessReport, ProcessReports
from vllama_pool.router.telemetry.decision_view import (
    DECISIONS,
    ONE_DECISION,
    FoundDecision,
    ProcessDecisions,
    find_decision,
    merge_found,
    view_decisions,
)
from vllama_pool.router.telemetry.decisions import Decisions
from vllama_pool.router.telemetry.metrics import Readings, RouterMetrics
from vllama_pool.router.telemetry.recent_names import NamesInUse, RecentNames
from vllama_pool.router.telemetry.report_exchange import Question, Report, ReportExchange
from vllama_pool.router.telemetry.request_log import RequestLog
from vllama_pool.router.telemetry.request_record import RequestRecord
from vllama_pool.router.telemetry.routing_file import RoutingFileState
from vllama_pool.router.telemetry.routing_state import ROUTING, RoutingState, routing_state
from vllama_pool.router.telemetry.shadow_metrics import ShadowMetrics
from vllama_pool.router.telemetry.worker_view import view_workers
from vllama_pool.router.upstream.client import UpstreamClient
from vllama_pool.router.upstream.interface import Client
from vllama_pool.router.virtual_models.change_plans import Inventory
from vllama_pool.router.virtual_models.store import ModelStore
from vllama_pool.router.wiring import Sources, open_sources, writes_refusal

_log = logging.getLogger(__name__)

REGISTRY_WAIT = 2.0
"""Seconds to wait for the first registry snapshot at the start."""
CLIENT_STALL = 60.0
"""Seconds until a client that reads nothing is dropped."""


@dataclass(frozen=True, slots=True)
class Collaborators:
    """Collaborators that tests replace."""

    client: Client
    clock: Clock
    rng: random.Random
    log_stream: BinaryIO


def create_app(
    settings: RouterSettings,
    table: RoutingTable | None = None,
    *,
    client: Client | None = None,
    clock: Clock | None = None,
    rng: random.Random | None = None,
    log_stream: BinaryIO | None = None,
    instance: RouterInstance | None = None,
    reload_request: ReloadRequest | None = None,
    last_table: LastTable | None = None,
) -> Gate:
    """Build the application. Raises RoutingError for an invalid routing file, unless `last_table` has a table."""
    watch = FileWatch(Watched((settings.routing_file,))) if settings.routing_file and table is None else None
    last_table, reload_request = last_table or LastTable(), reload_request or ReloadRequest()
    if table is None:
        table = _first_table(settings.routing_file, last_table, reload_request)
    collaborators = Collaborators(
        client or UpstreamClient(), clock or SystemClock(), rng or random.Random(), log_stream or sys.stdout.buffer
    )
    host_name = socket.gethostname()
    pool = Pool(time.monotonic)
    pool.set_aside(Maintenance(table).message)
    virtual_models = ModelStore()
    routes = LiveRoutes(
        table,
        lambda table, before: ModelRoutes(table, collaborators.rng, virtual=virtual_models.live, previous=before),
    )
    sources = open_sources(settings, table.workers, pool, virtual_models, lambda: routes().shadowed(pool))
    stalls = StallWatch()
    request_log = RequestLog(collaborators.log_stream, debug=settings.log_level == "debug")
    instance = instance or RouterInstance()
    admission = Admission(settings.max_queue, instance.total)
    admission.set_limits(request_limits(table))
    names = RecentNames(time.monotonic)
    shadow_metrics = ShadowMetrics()
    metrics = _metrics(
        pool,
        sources.discovery,
        request_log,
        admission,
        lambda: reloader.state if reloader is not None else None,
        shadow_metrics,
    )
    expiry = ExpiryTracker(FOREVER if settings.keep_alive == float("inf") else int(settings.keep_alive * 1e9))
    decisions = Decisions(settings.decisions)
    state = Report("state", ProcessReport, lambda: _report(pool, sources.discovery, metrics, reloader))
    uses = Report("model uses", ModelUses, expiry.uses)
    routing = Report(ROUTING, RoutingState, lambda: _routing_state(pool, sources, reloader))
    made = Report(
        DECISIONS,
        ProcessDecisions,
        lambda: view_decisions(decisions, _clock_offset(collaborators.clock)),
        takes_long=True,
    )
    one = Question(ONE_DECISION, FoundDecision, lambda name: _find(decisions, name, collaborators.clock))
    in_use = Report("names in use", NamesInUse, names.in_use)
    exchange = ReportExchange(instance, (state, uses, routing, made, in_use), (one,))

    async def orphans(table: RoutingTable) -> Sequence[str]:
        used = {name for process in (await exchange.collect(in_use)).values() for name in process.names}
        changes = WorkerChanges(sources.static.left_out(table.workers), added=sources.static.adds(table.workers))
        return find_orphans(used, routes.now, routes.next, pool, changes)

    async def live_revisions() -> Sequence[str]:
        return [process.revision for process in (await exchange.collect(routing)).values()]

    async def collect_states() -> ProcessReports:
        return ProcessReports(exchange.total, await exchange.collect(state))

    async def collect_uses() -> Iterable[ModelUses]:
        return (await exchange.collect(uses)).values()

    async def collect_decisions() -> Iterable[ProcessDecisions]:
        return (await exchange.collect(made)).values()

    async def find_request(request_id: str) -> FoundDecision:
        return merge_found(await exchange.ask(one, request_id))

    keyring = Keyring(settings, metrics.usage, instance.total)

    def prepare_keys(table: RoutingTable) -> Callable[[], None]:
        """`routes` have been prepared for the table. Raises RoutingError."""
        keys = keyring.read(table, routes.next.names_of)
        access = Access.from_settings(settings, keys.grants, [host_name])

        def apply() -> None:
            keyring.use(keys)
            gate.use(access)

        return apply

    parts: tuple[Prepare, ...] = (
        routes.prepare,
        prepare_keys,
        lambda table: partial(pool.set_aside, Maintenance(table).message),
        lambda table: partial(sources.static.apply, table.workers),
        lambda table: partial(admission.set_limits, request_limits(table)),
    )
    reloader = (
        Reloader(
            table,
            watch,
            parts,
            Fleet(orphans, live_revisions),
            reload_request,
            last_table,
            logs=exchange.index == 0,
        )
        if watch is not None
        else None
    )
    upstream = _upstream(settings, collaborators, pool, stalls)
    shadows = Shadows(upstream, routes, collaborators.rng, shadow_metrics, instance.total)
    inference = InferenceHandler(
        routes=routes,
        pool=pool,
        begin=_forwarder(settings, collaborators, upstream, admission, sources.discovery.refresh).begin,
        clock=collaborators.clock,
        expiry=expiry,
        decisions=decisions,
        names=names,
        shadows=shadows,
        body_limit=settings.body_limit,
        traces=settings.trace,
        anonymous=Grant(usage=metrics.usage.anonymous),
    )
    table_of_operations = operations(collaborators.clock, settings.stall_timeout, settings.max_choices)
    hot = {operation.path: partial(inference.handle, operation) for operation in table_of_operations}
    handlers = [
        *catalogue_routes(pool, routes, expiry, collect_uses, collaborators.clock, settings.version),
        *openai_model_routes(pool, routes),
        *model_routes(
            sources.sync,
            lambda rights: Inventory(routes(), pool, virtual_models.live, writes_refusal(settings), rights),
        ),
        *admin_routes(collect_states),
        *explain_routes(
            collect_decisions,
            find_request,
            ModelExplainer(
                routes,
                pool,
                collaborators.clock,
                collaborators.rng,
                {operation.name: operation for operation in table_of_operations},
                lambda name: keyring.rights(name),  # noqa: PLW0108
            ),
        ),
    ]
    loops = (stalls.run, *((reloader.run,) if reloader else ()))
    lifespan = _lifespan(collaborators.client, sources, exchange, loops, request_log, shadows)
    refusal_log = RefusalLog(time.monotonic)

    def finished(record: RequestRecord) -> None:
        request_log.finished(record)
        if record.operation:
            metrics.finished(record)

    def on_refusal(refusal: Refusal) -> None:
        metrics.refused(refusal.reason)
        refusal_log.refused(refusal)

    dispatcher = _serve(settings, hot, handlers, lifespan)
    keys = keyring.read(table, routes().names_of)
    keyring.use(keys)
    access = Access.from_settings(settings, keys.grants, [host_name])
    gate = Gate(dispatcher, access, finished, on_refusal, collaborators.clock.monotonic_ns)  # a reload uses it
    return gate


def _first_table(file: Path | None, last: LastTable, request: ReloadRequest) -> RoutingTable:
    """Return the table of the processes before this one, whose file is then judged as a reload; else the file's."""
    if file is None:
        return RoutingTable()
    table = last.read()
    if table is None:
        return load(file)
    request()
    return table


def _clock_offset(clock: Clock) -> int:
    return clock.time_ns() - clock.monotonic_ns()


def _find(decisions: Decisions, request_id: str, clock: Clock) -> FoundDecision:
    return find_decision(decisions, request_id, _clock_offset(clock))


def _timeouts(settings: RouterSettings) -> TimeoutTable:
    stalls = StallLimits(
        first_content=settings.first_token_timeout,
        mid_response=settings.stall_timeout,
        whole_answer=settings.answer_timeout,
    )
    return TimeoutTable(Timeouts(settings.connect_timeout, stalls))


def _upstream(settings: RouterSettings, collaborators: Collaborators, pool: Pool, stalls: StallWatch) -> Upstream:
    return Upstream(
        client=collaborators.client,
        pool=pool,
        stalls=stalls,
        clock=collaborators.clock,
        timeouts=_timeouts(settings),
        client_stall=CLIENT_STALL,
    )


def _forwarder(
    settings: RouterSettings,
    collaborators: Collaborators,
    upstream: Upstream,
    admission: Admission,
    refresh: Callable[[], None],
) -> Forwarder:
    return Forwarder(Shared(upstream, collaborators.rng, admission, refresh, settings.log_level == "debug"))


def _metrics(
    pool: Pool,
    discovery: Discovery,
    request_log: RequestLog,
    admission: Admission,
    routing_file: Callable[[], RoutingFileState | None],
    shadows: ShadowMetrics,
) -> RouterMetrics:
    return RouterMetrics(
        Readings(
            workers=pool,
            now=time.monotonic,
            registry_up=lambda: discovery.registry_up,
            refused_records=lambda: discovery.refusals,
            dropped_log_lines=lambda: request_log.dropped,
            queues=admission.queues,
            routing_file=routing_file,
            shadows=shadows.families,
        ),
        tuple(Reason),
    )


def _report(pool: Pool, discovery: Discovery, metrics: RouterMetrics, reloader: Reloader | None) -> ProcessReport:
    workers = view_workers(pool, time.monotonic())
    return ProcessReport(
        workers,
        discovery.registry_up,
        metrics.families(),
        discovery.registry_problem,
        reloader.state if reloader is not None else None,
    )


def _routing_state(pool: Pool, sources: Sources, reloader: Reloader | None) -> RoutingState:
    problem, revision = sources.discovery.registry_problem, reloader.state.revision if reloader is not None else ""
    return routing_state(pool, caught_up=sources.caught_up, registry_problem=problem, revision=revision)


Lifespan = Callable[[Litestar], AbstractAsyncContextManager[None]]
Loop = Callable[[], Coroutine[Any, Any, None]]
"""Runs until it is cancelled."""


def _lifespan(
    client: Client,
    sources: Sources,
    exchange: ReportExchange,
    loops: Sequence[Loop],
    request_log: RequestLog,
    shadows: Shadows,
) -> Lifespan:
    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncGenerator[None, None]:
        writing = asyncio.get_running_loop().create_task(request_log.run(), name="request log")
        try:
            async with exchange.serving(), background(*sources.loops(), *(loop() for loop in loops)):
                await sources.discovery.wait_first(REGISTRY_WAIT)
                yield
        finally:
            await shadows.aclose()
            await client.aclose()
            await sources.aclose()
            request_log.stop()
            await writing

    return lifespan


def _serve(
    settings: RouterSettings, hot: Mapping[str, App], handlers: Sequence[BaseRouteHandler], lifespan: Lifespan
) -> Dispatcher:
    """Wrap the handlers: `Dispatcher` calls the operations of `hot` and answers unserved paths, Litestar the rest."""
    app = Litestar(
        route_handlers=handlers,
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=[lifespan],
        openapi_config=None,
        request_max_body_size=settings.body_limit,
        logging_config=None,
    )
    return Dispatcher(app, served_methods(app), FIXED_ROUTES, settings.body_limit, hot)


def served_methods(app: Litestar) -> Iterator[tuple[str, Iterable[str]]]:
    """Yield the application's paths with their methods."""
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            methods = {str(method) for handler in route.route_handlers for method in handler.http_methods}
            yield route.path, methods - {"OPTIONS"}


@asynccontextmanager
async def background(*work: Coroutine[Any, Any, None]) -> AsyncGenerator[None, None]:
    """Run endless coroutines within the context. If one fails, this process drains and exits, and the supervisor
    restarts it."""
    tasks = [asyncio.get_running_loop().create_task(coroutine) for coroutine in work]
    for task in tasks:
        task.add_done_callback(_end_on_failure)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # `_end_on_failure` has logged failures


def _end_on_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a background task failed; this router process ends", exc_info=error)
        signal.raise_signal(signal.SIGTERM)

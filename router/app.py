"""Builds the ASGI application of one router process."""

from __future__ import annotations

import random
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from litestar import Litestar
from litestar.handlers import BaseRouteHandler
from litestar.routes import HTTPRoute

from vllama_pool.config.routing.queue_checks import unable_to_wait
from vllama_pool.config.routing.table import RoutingTable, load
from vllama_pool.config.routing.watch import FileWatch, Watched
from vllama_pool.config.settings import RouterSettings
from vllama_pool.router.admission.keyring import Keyring
from vllama_pool.router.explainer import ModelExplainer
from vllama_pool.router.handlers.admin import admin_routes
from vllama_pool.router.handlers.catalogue import catalogue_routes
from vllama_pool.router.handlers.drain import drain_routes
from vllama_pool.router.handlers.explain import explain_routes
from vllama_pool.router.handlers.health import ReadyView, Sources, health_routes
from vllama_pool.router.handlers.models import model_routes
from vllama_pool.router.handlers.openai_models import openai_model_routes
from vllama_pool.router.instance import RouterInstance
from vllama_pool.router.last_table import LastTable
from vllama_pool.router.lifespan import Lifespan, Loop, make_lifespan
from vllama_pool.router.protocol.clock import SystemClock
from vllama_pool.router.protocol.ollama.fixed_routes import FIXED_ROUTES
from vllama_pool.router.protocol.operation import Clock, Operation
from vllama_pool.router.protocol.table import operations
from vllama_pool.router.readiness import Readiness
from vllama_pool.router.reload import Reloader, ReloadRequest
from vllama_pool.router.reloadable import KeyAccess, make_fleet, reloadable_parts
from vllama_pool.router.reports import Reports
from vllama_pool.router.request_path import make_request_path
from vllama_pool.router.server.access import Access
from vllama_pool.router.server.arrivals import ARRIVALS, ArrivalLimits, Arrivals
from vllama_pool.router.server.asgi import App
from vllama_pool.router.server.connection_limits import CONNECTIONS, ConnectionBounds, ConnectionLimits
from vllama_pool.router.server.dispatch import Dispatcher
from vllama_pool.router.server.error_handlers import EXCEPTION_HANDLERS
from vllama_pool.router.server.gate import Gate, Observers
from vllama_pool.router.server.refusal import Refusal
from vllama_pool.router.server.refusal_log import RefusalLog
from vllama_pool.router.server.slow_readers import SLOW_READERS, SlowReaders
from vllama_pool.router.state import Collaborators, RouterState, open_state
from vllama_pool.router.telemetry.routing_file import RoutingFileState
from vllama_pool.router.upstream.client import UpstreamClient
from vllama_pool.router.upstream.interface import Client
from vllama_pool.router.virtual_models.change_plans import Inventory
from vllama_pool.router.wiring import writes_refusal

RECENT = 60.0
"""Seconds for which `/readyz` counts a worker as one that answered, without canaries."""
RECENT_INTERVALS = 1.5
"""Intervals of canaries for which it does."""


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
    readiness: Readiness | None = None,
) -> Gate:
    """Build the application. Raises RoutingError for an invalid routing file, unless `last_table` has a table.

    `readiness`: where the process notes that it drains.
    """
    last_table, reload_request = last_table or LastTable(), reload_request or ReloadRequest()
    instance, readiness = instance or RouterInstance(), readiness or Readiness()
    watch = FileWatch(Watched((settings.routing_file,))) if settings.routing_file and table is None else None
    if table is None:
        table = _first_table(settings.routing_file, last_table, reload_request)
    collaborators = Collaborators(
        client or UpstreamClient(), clock or SystemClock(), rng or random.Random(), log_stream or sys.stdout.buffer
    )

    def file_state() -> RoutingFileState | None:
        return reloader.state if reloader is not None else None

    def use_access(access: Access) -> None:
        gate.use(access)

    connections = _Connections.limited_by(settings)
    state = open_state(settings, table, collaborators, instance, file_state, connections.limits.families)
    reports = Reports(state, instance, collaborators.clock, file_state)
    keyring = Keyring(settings, state.metrics.usage, instance.total)
    keys = KeyAccess(settings, keyring, state.routes, socket.gethostname())
    reloader = None
    if watch is not None:
        parts, fleet = reloadable_parts(state, keys, use_access), make_fleet(state, reports)
        reloader = Reloader(
            *(table, watch, parts, fleet, reload_request, last_table),
            warnings=partial(unable_to_wait, max_queue=settings.max_queue),
            logs=instance.index == 0,
        )
    path = make_request_path(settings, collaborators, state, instance.total)
    served = operations(collaborators.clock, settings.stall_timeout, settings.max_choices)
    loops = (*connections.loops, *path.loops, state.names.run, *((reloader.run,) if reloader else ()))
    closing = (path.shadows.aclose, collaborators.client.aclose)
    lifespan = make_lifespan(state.sources, reports.exchange, state.request_log, loops, closing)
    handlers = _handlers(settings, collaborators, state, reports, keyring, served)
    handlers += health_routes(_ready_view(settings, state, readiness, path.canaries.asked))
    hot = {operation.path: partial(path.inference.handle, operation) for operation in served}
    dispatcher = _serve(settings, hot, handlers, lifespan)
    observers = Observers(state.request_log.finished, state.metrics.finished, _on_refusal(state))
    gate = Gate(dispatcher, keys.open(table), observers, collaborators.clock.monotonic_ns, connections.state)
    return gate


@dataclass(frozen=True, slots=True)
class _Connections:
    """Limits of the front door on its connections."""

    arrivals: Arrivals
    readers: SlowReaders
    limits: ConnectionLimits

    @classmethod
    def limited_by(cls, settings: RouterSettings) -> _Connections:
        bounds = ConnectionBounds(settings.max_connections, settings.max_connections_per_client)
        arrivals = Arrivals(ArrivalLimits(settings.head_timeout, settings.body_timeout))
        return cls(arrivals, SlowReaders(settings.client_stall), ConnectionLimits(bounds))

    @property
    def state(self) -> dict[str, Any]:
        """Of the ASGI lifespan, where connections find them."""
        return {ARRIVALS: self.arrivals, SLOW_READERS: self.readers, CONNECTIONS: self.limits}

    @property
    def loops(self) -> tuple[Loop, ...]:
        """To run in the background."""
        return self.arrivals.run, self.readers.run


def _first_table(file: Path | None, last: LastTable, request: ReloadRequest) -> RoutingTable:
    """Return the table of the processes before this one, whose file is then judged as a reload; else the file's."""
    if file is None:
        return RoutingTable()
    table = last.read()
    if table is None:
        return load(file)
    request()
    return table


def _handlers(
    settings: RouterSettings,
    collaborators: Collaborators,
    state: RouterState,
    reports: Reports,
    keyring: Keyring,
    served: Sequence[Operation[Any]],
) -> list[BaseRouteHandler]:
    """Return the handlers of everything but inference."""
    pool, routes, clock = state.pool, state.routes, collaborators.clock
    by_name = {operation.name: operation for operation in served}
    waiting = state.admission.waiting_by_model
    explainer = ModelExplainer(routes, pool, clock, collaborators.rng, by_name, keyring.rights, waiting)
    return [
        *catalogue_routes(pool, routes, state.expiry, reports.uses, clock, settings.version),
        *openai_model_routes(pool, routes),
        *model_routes(
            state.sources.sync,
            lambda rights: Inventory(routes(), pool, state.virtual_models.live, writes_refusal(settings), rights),
        ),
        *admin_routes(reports.states),
        *drain_routes(pool, state.sources.drains),
        *explain_routes(reports.decisions, reports.find_decision, explainer),
    ]


def _ready_view(
    settings: RouterSettings, state: RouterState, readiness: Readiness, on_asked: Callable[[float], None]
) -> ReadyView:
    sources = Sources(
        readiness,
        state.pool,
        state.routes,
        waiting=state.admission.waiting_by_model,
        registry_read=lambda: state.sources.discovery.known,
        now=time.monotonic,
        on_asked=on_asked,
    )
    window = RECENT_INTERVALS * settings.canary or RECENT
    return ReadyView(sources, settings.ready, window)


def _on_refusal(state: RouterState) -> Callable[[Refusal], None]:
    metrics, refusal_log = state.metrics, RefusalLog(time.monotonic)

    def on_refusal(refusal: Refusal) -> None:
        metrics.refused(refusal.reason)
        refusal_log.refused(refusal)

    return on_refusal


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

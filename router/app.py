"""All the wiring of one router process: which object knows which. No behaviour of its own."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any, BinaryIO, cast

from litestar import Litestar, asgi
from litestar.handlers import ASGIRouteHandler
from litestar.routes import ASGIRoute, HTTPRoute
from litestar.types import Receive, Scope, Send

from vllama_pool.config.durations import FOREVER
from vllama_pool.config.routing.table import RoutingTable, load
from vllama_pool.config.settings import RouterSettings
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.handlers.admin import admin_routes, worker_gauges
from vllama_pool.router.handlers.catalogue import catalogue_routes
from vllama_pool.router.handlers.inference import Inference
from vllama_pool.router.handlers.models import model_routes
from vllama_pool.router.handlers.openai_models import openai_model_routes
from vllama_pool.router.instance import RouterInstance
from vllama_pool.router.protocol.clock import SystemClock
from vllama_pool.router.protocol.ollama.expiry import ExpiryTracker
from vllama_pool.router.protocol.ollama.fixed_routes import FIXED_ROUTES
from vllama_pool.router.protocol.operation import Clock, Operation
from vllama_pool.router.protocol.table import operations
from vllama_pool.router.proxy.forward import Forwarder, Limits
from vllama_pool.router.proxy.stalls import StallLimits, StallWatch
from vllama_pool.router.routing.resolve import ModelRoutes
from vllama_pool.router.server.access import Access
from vllama_pool.router.server.dispatch import Dispatcher
from vllama_pool.router.server.error_handlers import EXCEPTION_HANDLERS
from vllama_pool.router.server.gate import Gate
from vllama_pool.router.telemetry.aggregate import ProcessReport
from vllama_pool.router.telemetry.metrics import RouterMetrics
from vllama_pool.router.telemetry.request_log import RequestLog
from vllama_pool.router.telemetry.request_record import Observers
from vllama_pool.router.telemetry.siblings import Siblings
from vllama_pool.router.telemetry.worker_view import view_all
from vllama_pool.router.upstream.client import UpstreamClient
from vllama_pool.router.upstream.interface import Client
from vllama_pool.router.virtual_models.plans import Inventory
from vllama_pool.router.virtual_models.store import ModelStore
from vllama_pool.router.wiring import no_writes, open_sources

log = logging.getLogger(__name__)

FIRST_LOOK = 2.0
"""Seconds that starting waits for the first look at the registry, so that the first request finds workers."""


def create_app(
    settings: RouterSettings,
    table: RoutingTable | None = None,
    *,
    client: Client | None = None,
    clock: Clock | None = None,
    rng: random.Random | None = None,
    log_stream: BinaryIO | None = None,
    place: RouterInstance | None = None,
) -> Gate:
    """The ASGI application of one router process. `table` defaults to the settings' routing file, `place` to the
    only process there is.

    Raises RoutingError for a file that cannot be used, and ValueError for a registry address that is none.
    """
    clock = clock or SystemClock()
    rng = rng or random.Random()
    if table is None:
        table = load(settings.routing_file) if settings.routing_file else RoutingTable()
    client = client or UpstreamClient()
    pool = Pool(time.monotonic)
    virtual = ModelStore()
    routes = ModelRoutes(table, rng, virtual=virtual.live)
    stalls = StallWatch(StallLimits(first_content=settings.first_token_timeout, in_answer=settings.stall_timeout))
    sources = open_sources(settings, table.workers, pool, virtual, lambda: routes.shadowed(pool))
    discovery = sources.discovery
    forwarder = Forwarder(
        client,
        pool,
        stalls,
        clock,
        rng,
        limits=Limits(connect=settings.connect_timeout, waiting=settings.max_queue),
        refresh=discovery.refresh,
    )
    expiry = ExpiryTracker(FOREVER if settings.keep_alive == float("inf") else int(settings.keep_alive * 1e9))
    metrics = RouterMetrics(lambda: worker_gauges(pool, time.monotonic()), lambda: discovery.refusals)

    def report() -> ProcessReport:
        metrics.registry_up.set(discovery.registry_up)
        return ProcessReport(view_all(pool, time.monotonic()), discovery.registry_up, metrics.families())

    siblings = Siblings(place or RouterInstance(), report)
    request_log = RequestLog(log_stream or sys.stdout.buffer)
    inference = Inference(
        routes=lambda: routes,
        pool=pool,
        forwarder=forwarder,
        stalls=stalls,
        clock=clock,
        observer=Observers([metrics, request_log]),
        expiry=expiry,
        body_limit=settings.body_limit,
        client_stall=60.0,
    )

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncGenerator[None, None]:
        writing = asyncio.get_running_loop().create_task(request_log.run(), name="request log")
        try:
            async with siblings.answering(), background(*sources.work(), stalls.run()):
                await discovery.wait_first(FIRST_LOOK)
                yield
        finally:
            await client.aclose()
            await sources.aclose()
            request_log.stop()
            await writing

    app = Litestar(
        route_handlers=[
            *(worker_route(operation, inference) for operation in operations(clock)),
            *catalogue_routes(pool, lambda: routes, expiry, clock, settings.version),
            *openai_model_routes(pool, lambda: routes),
            *model_routes(sources.keeper, lambda: Inventory(routes, pool, virtual.live, no_writes(settings))),
            *admin_routes(siblings.reports),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=[lifespan],
        openapi_config=None,
        request_max_body_size=settings.body_limit,
        logging_config=None,
    )
    surface = Dispatcher(app, served(app), FIXED_ROUTES, settings.body_limit)
    return Gate(surface, Access.of(settings, own_names=[socket.gethostname()]))


def served(app: Litestar) -> Iterator[tuple[str, Iterable[str]]]:
    """The application's paths and methods. Raw routes take POST, or what they say as `methods`."""
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            methods = {str(method) for handler in route.route_handlers for method in handler.http_methods}
            yield route.path, methods - {"OPTIONS"}
        elif isinstance(route, ASGIRoute):
            yield route.path, route.route_handler.opt.get("methods", ("POST",))


def worker_route(operation: Operation[Any], inference: Inference) -> ASGIRouteHandler:
    """A raw route: what it costs per token is ours alone."""

    @asgi(operation.path, copy_scope=False, name=operation.name)
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await inference.handle(operation, cast(Any, scope), cast(Any, receive), cast(Any, send))

    return handler


@asynccontextmanager
async def background(*work: Coroutine[Any, Any, None]) -> AsyncGenerator[None, None]:
    """Run what never ends by itself for as long as the app does. If one fails, this process drains and ends: a
    router that no longer sees its workers come and go is worse than one that is started anew."""
    tasks = [asyncio.get_running_loop().create_task(coroutine) for coroutine in work]
    for task in tasks:
        task.add_done_callback(_report_fault)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # what failed was reported when it did


def _report_fault(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a background task has failed; this router process ends", exc_info=error)
        signal.raise_signal(signal.SIGTERM)

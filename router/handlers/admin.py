"""Routes for operators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from vllama_pool.router.server.asgi import JSON
from vllama_pool.router.telemetry.aggregate import ProcessReports, metrics_page, routing_files, workers_page
from vllama_pool.router.telemetry.metrics import CONTENT_TYPE


def admin_routes(reports: Callable[[], Awaitable[ProcessReports]]) -> list[HTTPRouteHandler]:
    """`/metrics`, `/admin/workers` and `/admin/routing`. `reports` collects from all router processes."""

    @get("/metrics")
    async def metrics() -> Response[str]:
        return Response(metrics_page(await reports()), headers={"content-type": CONTENT_TYPE})

    @get("/admin/workers")
    async def workers() -> Response[bytes]:
        return Response(msgspec.json.encode(workers_page(await reports())), media_type=JSON)

    @get("/admin/routing")
    async def routing() -> Response[bytes]:
        return Response(msgspec.json.encode(routing_files(await reports())), media_type=JSON)

    return [metrics, workers, routing]

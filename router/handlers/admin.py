"""What ops ask: what does the router count, how are its workers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.telemetry import metrics
from vllama_pool.router.telemetry.aggregate import ProcessReports, metrics_page, workers_page
from vllama_pool.router.telemetry.metrics import WorkerGauges


def admin_routes(reports: Callable[[], Awaitable[ProcessReports]]) -> list[HTTPRouteHandler]:
    """`/metrics` and `/admin/workers`. `reports` asks all router processes."""

    @get("/metrics")
    async def counted() -> Response[bytes]:
        return Response(metrics_page(await reports()), headers={"content-type": metrics.CONTENT_TYPE})

    @get("/admin/workers")
    async def workers() -> Response[bytes]:
        page = workers_page(await reports())
        return Response(msgspec.json.encode(page), media_type="application/json; charset=utf-8")

    return [counted, workers]


def worker_gauges(pool: Pool, now: float) -> list[WorkerGauges]:
    """The pool as Prometheus sees it."""
    return [
        WorkerGauges(
            worker=worker.id,
            up=worker.available(now),
            in_flight=worker.in_flight,
            running=worker.last.running,
            waiting=worker.last.waiting,
            slots=worker.record.slots,
            kv_usage=worker.last.kv_usage,
            tokens_per_second=worker.last.tokens_per_second,
        )
        for worker in pool
    ]

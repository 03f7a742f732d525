"""What ops and probes ask: is it up, what does it count, how are its workers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from litestar import Response, get, route
from litestar.enums import HttpMethod, MediaType
from litestar.handlers import HTTPRouteHandler

from router import metrics
from router.balance.pool import Pool
from router.merging import Reports, metrics_page, workers_page
from router.metrics import WorkerGauges

RUNNING = b"Ollama is running"
"""What Ollama says at `/`: 17 bytes, no newline (R002)."""


def ops_routes(reports: Callable[[], Awaitable[Reports]]) -> list[HTTPRouteHandler]:
    """`/`, `/health`, `/metrics`, `/admin/workers`. `reports` asks all router processes."""

    @route("/", http_method=[HttpMethod.GET, HttpMethod.HEAD], status_code=200, sync_to_thread=False)
    def root() -> Response[bytes]:
        return Response(RUNNING, media_type=MediaType.TEXT)

    @route("/health", http_method=[HttpMethod.GET, HttpMethod.HEAD], status_code=200, sync_to_thread=False)
    def health() -> Response[bytes]:
        return Response(b"OK", media_type=MediaType.TEXT)

    @get("/metrics")
    async def counted() -> Response[bytes]:
        return Response(metrics_page(await reports()), headers={"content-type": metrics.CONTENT_TYPE})

    @get("/admin/workers")
    async def workers() -> Response[bytes]:
        page = workers_page(await reports())
        return Response(msgspec.json.encode(page), media_type="application/json; charset=utf-8")

    return [root, health, counted, workers]


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

"""What ops and probes ask: is it up, what does it count, how are its workers."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from litestar import Response, get, route
from litestar.enums import HttpMethod, MediaType
from litestar.handlers import HTTPRouteHandler

from router import metrics
from router.balance.pool import Pool
from router.balance.view import WorkerView, view_all
from router.metrics import Metrics, WorkerGauges

RUNNING = b"Ollama is running"
"""What Ollama says at `/`: 17 bytes, no newline (R002)."""


class WorkersPage(msgspec.Struct, frozen=True):
    """The body of `GET /admin/workers`."""

    workers: tuple[WorkerView, ...]
    registry_up: bool
    """Whether the registry answers; the workers are the last known ones otherwise."""


def ops_routes(
    pool: Pool, counted: Metrics, now: Callable[[], float], registry_up: Callable[[], bool]
) -> list[HTTPRouteHandler]:
    """`/`, `/health`, `/metrics`, `/admin/workers`. `now` gives monotonic seconds."""

    @route("/", http_method=[HttpMethod.GET, HttpMethod.HEAD], status_code=200, sync_to_thread=False)
    def root() -> Response[bytes]:
        return Response(RUNNING, media_type=MediaType.TEXT)

    @route("/health", http_method=[HttpMethod.GET, HttpMethod.HEAD], status_code=200, sync_to_thread=False)
    def health() -> Response[bytes]:
        return Response(b"OK", media_type=MediaType.TEXT)

    @get("/metrics", sync_to_thread=False)
    def metrics_page() -> Response[bytes]:
        counted.registry_up.set(registry_up())
        return Response(counted.render(), headers={"content-type": metrics.CONTENT_TYPE})

    @get("/admin/workers", sync_to_thread=False)
    def workers() -> Response[bytes]:
        page = WorkersPage(view_all(pool, now()), registry_up())
        return Response(msgspec.json.encode(page), media_type="application/json; charset=utf-8")

    return [root, health, metrics_page, workers]


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

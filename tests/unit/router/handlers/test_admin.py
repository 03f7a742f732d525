"""/metrics and /admin/workers show the merged reports of the router processes."""

from __future__ import annotations

from litestar import Litestar

from tests.support.asgi import http_client
from tests.support.balance import Clock, found, pool_of
from vllama_pool.router.handlers.admin import admin_routes
from vllama_pool.router.telemetry.aggregate import ProcessReport, ProcessReports
from vllama_pool.router.telemetry.families import Family, exposition
from vllama_pool.router.telemetry.worker_view import view_workers


def app(*reports: ProcessReport, total: int) -> Litestar:
    async def collect() -> ProcessReports:
        return ProcessReports(total, dict(enumerate(reports)))

    return Litestar(admin_routes(collect), logging_config=None)


def report(*workers: str, requests: int = 0) -> ProcessReport:
    clock = Clock()
    return ProcessReport(
        view_workers(pool_of(clock, *(found(worker) for worker in workers)), clock()), True, [counted(requests)]
    )


def counted(requests: int) -> Family:
    return Family("vllama_requests_total", "Finished requests.", "counter", series={(): requests})


async def test_admin_workers_lists_the_workers_of_all_processes_as_json() -> None:
    async with http_client(app(report("a"), report("a", "b"), total=3)) as client:
        response = await client.get("/admin/workers")
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    page = response.json()
    assert [worker["id"] for worker in page["workers"]] == ["a", "b"]
    assert page["workers"][0]["state"] == "ready"
    assert page["processes"] == {"total": 3, "answered": 2}
    assert page["registry_up"] is True


async def test_metrics_has_prometheus_content_type_and_the_text_of_the_report() -> None:
    async with http_client(app(report(requests=1), total=1)) as client:
        response = await client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response.text == exposition([counted(1)])


async def test_each_request_collects_fresh_reports() -> None:
    collected: list[int] = []

    async def collect() -> ProcessReports:
        collected.append(1)
        return ProcessReports(1, {0: report(requests=len(collected))})

    async with http_client(Litestar(admin_routes(collect), logging_config=None)) as client:
        texts = [(await client.get("/metrics")).text for _ in range(2)]
    assert texts == [exposition([counted(1)]), exposition([counted(2)])]

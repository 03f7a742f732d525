"""Canaries to scripted workers: what each result does to the worker, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import pytest

from tests.support.balance import found, worker_in
from tests.support.forwarding import refused, silent, status
from tests.support.until import auntil
from tests.support.upstream import FakeClient, FakeResponse
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.balance.worker import Worker
from vllama_pool.router.protocol.clock import SystemClock
from vllama_pool.router.proxy.canary import REQUEST_ID, Canaries
from vllama_pool.router.proxy.collaborators import Upstream
from vllama_pool.router.proxy.stalls import StallWatch
from vllama_pool.router.proxy.timeouts import Timeouts, TimeoutTable
from vllama_pool.router.telemetry.canary_metrics import CanaryMetrics
from vllama_pool.router.upstream.interface import TransportError
from vllama_pool.workers.registry.record import LoadReport, ModelInfo

INTERVAL = 0.1
TOKEN = FakeResponse([b'{"choices": [{"text": "2"}]}'])
VECTOR = FakeResponse([b'{"data": [{"embedding": [1.0]}]}'])
CHAT = ModelInfo(name="m", capabilities=("completion",))


@dataclass
class Case:
    client: FakeClient
    worker: Worker
    metrics: CanaryMetrics

    def results(self) -> dict[str, float]:
        (family,) = self.metrics.families()
        return {labels[0]: float(value) for labels, value in family.series.items() if isinstance(value, int)}


@asynccontextmanager
async def running(
    *script: FakeResponse | Exception, model: ModelInfo = CHAT, asked: bool = True
) -> AsyncIterator[Case]:
    """Run canaries to one worker, about which somebody asks."""
    client, pool, metrics = FakeClient({"a": script}), Pool(time.monotonic), CanaryMetrics()
    pool.put(found("a", model))
    upstream = Upstream(client, pool, StallWatch(), SystemClock(), TimeoutTable(Timeouts()))
    canaries = Canaries(upstream, random.Random(1), metrics, INTERVAL)
    if asked:
        canaries.asked(time.monotonic())
    task = asyncio.create_task(canaries.run())
    try:
        yield Case(client, worker_in(pool, "a"), metrics)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert worker_in(pool, "a").in_flight == 0
        assert all(exchange.released for exchange in client.exchanges)


@pytest.mark.parametrize(
    ("capability", "path", "fields"),
    [
        ("completion", "/v1/completions", {"model": "m", "prompt": "1", "max_tokens": 1, "temperature": 0}),
        ("embedding", "/v1/embeddings", {"model": "m", "input": "1"}),
    ],
)
async def test_a_token_is_a_success_of_the_worker(capability: str, path: str, fields: dict[str, object]) -> None:
    async with running(
        VECTOR if capability == "embedding" else TOKEN, model=ModelInfo(name="m", capabilities=(capability,))
    ) as case:
        await auntil(lambda: case.results()["answered"] == 1, 5)
        assert case.worker.answered_at > 0
        assert case.client.request_ids == [REQUEST_ID]
        ((_, sent_to, body),) = case.client.sent
        assert (sent_to, msgspec.json.decode(body)) == (path, fields)


async def test_no_token_in_time_makes_the_worker_silent() -> None:
    async with running(silent()) as case:
        await auntil(lambda: case.results()["silent"] == 1, 5)
        assert case.worker.health.silent


async def test_a_token_of_another_request_meanwhile_keeps_the_worker() -> None:
    async with running(silent(), silent()) as case:
        await auntil(lambda: bool(case.client.sent), 5)
        case.worker.report(LoadReport(tokens_per_second=5.0), time.monotonic())
        await auntil(lambda: case.client.exchanges[0].released, 5)
        assert not case.worker.health.silent


@pytest.mark.parametrize("reply", [refused(), status(500, "EngineCore encountered an issue")])
async def test_a_failure_counts_against_the_worker_as_a_requests_would(reply: FakeResponse | TransportError) -> None:
    async with running(reply) as case:
        await auntil(lambda: case.results()["failed"] == 1, 5)
        await auntil(lambda: not case.worker.is_available(time.monotonic()), 5)
        assert not case.worker.health.silent


@pytest.mark.parametrize("body", [b"{}", b"<html>", b'{"choices":[]}'])
async def test_a_200_without_a_token_is_a_failure(body: bytes) -> None:
    async with running(FakeResponse([body])) as case:
        await auntil(lambda: case.results()["failed"] == 1, 5)
        assert case.results()["answered"] == 0
        assert case.worker.troubled


async def test_nobody_is_asked_about_a_fleet_that_nobody_asks_about() -> None:
    async with running(asked=False) as case:
        began = time.monotonic()
        await auntil(lambda: time.monotonic() - began > 4 * INTERVAL, 5)
        assert case.client.sent == []

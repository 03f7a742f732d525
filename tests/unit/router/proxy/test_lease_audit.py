"""Leases that nobody would release: shown at once, and released when the worker's reports agree."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from tests.support.balance import Clock, found, pool_of, worker_in
from tests.support.forwarding import Fleet, silent
from tests.support.until import auntil
from vllama_pool.router.balance.lease import ABANDONED, Errored, Lease
from vllama_pool.router.errors import Lost
from vllama_pool.router.proxy.lease_audit import LeaseAudit
from vllama_pool.router.telemetry.lease_metrics import LeaseMetrics
from vllama_pool.workers.registry.record import LoadReport


@dataclass(eq=False)
class Request:
    """Holds a lease. `owned`: see Holder."""

    lease: Lease
    owned: bool = True

    def close(self) -> None:
        self.lease.release(ABANDONED)


@dataclass
class Router:
    """A router process with one worker, "a", and its audit."""

    clock: Clock = field(default_factory=Clock)
    open: list[Request] = field(default_factory=list)
    metrics: LeaseMetrics = field(default_factory=LeaseMetrics)

    def __post_init__(self) -> None:
        self.pool = pool_of(self.clock, found("a"))
        self.worker = worker_in(self.pool, "a")
        self.canaries: set[Lease] = set()
        self.audit = LeaseAudit(self.pool, self._not_closed, lambda: self.canaries, self.metrics)

    def _not_closed(self) -> list[Request]:
        return [request for request in self.open if not request.lease.released]

    def request(self, *, owned: bool = True) -> Request:
        self.open.append(Request(self.pool.lease(self.worker), owned))
        return self.open[-1]

    def look(self, *, seconds: int, running: int) -> None:
        """Look once a second, after a report."""
        for _ in range(seconds):
            self.clock.advance(1)
            self.pool.report("a", LoadReport(running=running))
            self.audit.look()

    @property
    def drift(self) -> float:
        return self.metrics.drifts.get("a", 0)


def test_a_leaked_lease_is_shown_at_once_and_released_when_the_reports_agree(
    caplog: pytest.LogCaptureFixture,
) -> None:
    router = Router()
    router.request()
    router.pool.lease(router.worker)
    router.look(seconds=1, running=1)
    assert (router.drift, router.worker.in_flight, router.metrics.released) == (1, 2, 0)
    router.look(seconds=10, running=1)
    assert (router.drift, router.worker.in_flight, router.metrics.released) == (0, 1, 1)
    assert caplog.text.count("1 requests that had ended still counted") == 1
    router.look(seconds=60, running=1)
    assert (router.worker.in_flight, router.metrics.released) == (1, 1)
    router.open[0].close()
    assert router.worker.in_flight == 0


def test_a_request_without_an_owner_is_closed() -> None:
    router = Router()
    kept, lost = router.request(), router.request(owned=False)
    router.look(seconds=11, running=1)
    assert lost.lease.released
    assert not kept.lease.released
    assert (router.worker.in_flight, router.metrics.released, router.drift) == (1, 1, 0)


def test_requests_with_an_owner_count_whatever_the_worker_reports() -> None:
    """Such as those whose client reads slowly: the worker has finished long ago."""
    router = Router()
    for _ in range(5):
        router.request()
    router.look(seconds=60, running=0)
    assert (router.worker.in_flight, router.drift, router.metrics.released) == (5, 0, 0)


def test_canaries_have_an_owner() -> None:
    router = Router()
    router.canaries.add(router.pool.lease(router.worker))
    router.look(seconds=60, running=0)
    assert (router.worker.in_flight, router.drift) == (1, 0)


def test_a_leak_stays_counted_and_shown_while_requests_of_others_hide_it() -> None:
    """Another router's requests, or a direct client's, are in the worker. The sum of loads is right meanwhile."""
    router = Router()
    router.pool.lease(router.worker)
    router.look(seconds=60, running=6)
    assert (router.worker.in_flight, router.drift) == (1, 1)
    assert router.worker.load == 6
    router.look(seconds=11, running=0)
    assert (router.worker.in_flight, router.drift) == (0, 0)


def test_no_more_than_the_worker_lacks_is_released() -> None:
    router = Router()
    for _ in range(3):
        router.request(owned=False)
    router.look(seconds=11, running=2)
    assert (router.worker.in_flight, router.metrics.released, router.drift) == (2, 1, 2)


def test_a_count_below_the_requests_that_exist_is_raised_at_once() -> None:
    router = Router()
    router.request()
    router.worker.in_flight = -1
    router.look(seconds=1, running=1)
    assert router.worker.in_flight == 1


def test_a_leaked_probe_of_a_half_open_breaker_does_not_keep_the_worker_out() -> None:
    router = Router()
    router.pool.lease(router.worker).release(Errored(Lost("reset")))
    router.worker.health.link.openings = 5  # so that beats do not close it
    router.clock.advance(60)
    router.pool.lease(router.worker)
    router.look(seconds=10, running=0)
    assert not router.worker.is_available(router.clock())
    router.look(seconds=1, running=0)
    assert router.worker.is_available(router.clock())


async def test_a_request_knows_the_attempt_that_it_will_close() -> None:
    fleet = Fleet(a=[silent()])
    metrics = LeaseMetrics()
    audit = LeaseAudit(fleet.pool, lambda: fleet.stalls.watched, tuple, metrics)
    worker = worker_in(fleet.pool, "a")
    task = asyncio.create_task(fleet.forward())
    await auntil(lambda: worker.in_flight == 1, 5)
    for _ in range(30):
        fleet.clock.advance(1)
        fleet.pool.report("a", LoadReport())
        audit.look()
    assert worker.in_flight == 1
    assert not metrics.drifts
    task.cancel()
    await asyncio.wait([task])
    fleet.assert_idle()


async def test_an_attempt_that_its_request_forgot_is_closed() -> None:
    """A fault of the code, made on purpose: the request ends, and its attempt is not closed."""
    fleet = Fleet(a=[silent()])
    metrics = LeaseMetrics()
    audit = LeaseAudit(fleet.pool, lambda: fleet.stalls.watched, tuple, metrics)
    worker = worker_in(fleet.pool, "a")

    async def forgetful() -> None:
        in_flight = fleet.begin()
        try:
            await in_flight.run()
        finally:
            in_flight._attempt = None
            in_flight.close()

    task = asyncio.create_task(forgetful())
    await auntil(lambda: worker.in_flight == 1, 5)
    task.cancel()
    await asyncio.wait([task])
    assert worker.in_flight == 1
    for _ in range(11):
        fleet.clock.advance(1)
        fleet.pool.report("a", LoadReport())
        audit.look()
    assert metrics.released == 1
    fleet.assert_idle()

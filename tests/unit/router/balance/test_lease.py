"""Leases: the count of requests, and the effect of outcomes on health and speed."""

import pytest

from tests.support.balance import Clock, found, pool_of, worker_in
from vllama_pool.router.balance.lease import Abandoned, Completed, Errored, Outcome
from vllama_pool.router.errors import Faulty, Lost, ModelGone


@pytest.mark.parametrize("outcome", [Completed(5), Errored(Lost("reset")), Errored(Faulty("boom")), Abandoned()])
def test_a_lease_is_released_exactly_once(outcome: Outcome) -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    worker = worker_in(pool, "a")
    first, second = pool.lease(worker), pool.lease(worker)
    assert worker.in_flight == 2
    for _ in range(3):
        first.release(outcome)
    assert worker.in_flight == 1
    assert repr(first) == "<Lease on a, released>"
    second.release(Abandoned())
    assert pool.in_flight == 0


def test_abandoned_requests_leave_the_worker_healthy() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    for _ in range(100):
        pool.lease(worker_in(pool, "a")).release(Abandoned())
    assert worker_in(pool, "a").is_available(clock())


def test_an_abandoned_probe_lets_the_next_request_probe() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    worker = worker_in(pool, "a")
    pool.lease(worker).release(Errored(Lost("refused")))
    clock.advance(3)
    probe = pool.lease(worker)
    assert not worker.is_available(clock())
    probe.release(Abandoned())
    assert worker.is_available(clock())


def test_the_first_content_of_a_probe_readmits_the_worker() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    worker = worker_in(pool, "a")
    pool.lease(worker).release(Errored(Lost("refused")))
    clock.advance(3)
    probe = pool.lease(worker)
    assert not worker.is_available(clock())
    probe.record_first_content()
    assert worker.is_available(clock())
    assert worker.speed.weight(clock()) < 1
    probe.release(Completed(1))


def test_a_stream_lost_after_its_first_content_makes_the_worker_suspect() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    lease = pool.lease(worker_in(pool, "a"))
    clock.advance(1)
    lease.record_first_content()
    clock.advance(5)
    lease.release(Errored(Lost("reset")))
    assert worker_in(pool, "a").is_suspect(clock())


def test_a_success_sent_before_the_loss_does_not_clear_the_suspect_worker() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    worker = worker_in(pool, "a")
    older, lost = pool.lease(worker), pool.lease(worker)
    clock.advance(1)
    lost.release(Errored(Lost("reset")))
    clock.advance(0.1)
    older.release(Completed(100))
    assert worker.is_suspect(clock())


def test_a_404_for_one_model_does_not_affect_the_workers_other_models() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", "base", "lora"))
    worker = worker_in(pool, "a")
    pool.lease(worker, "lora").release(Errored(ModelGone("no such model")))
    assert not worker.offers("lora", clock())
    assert worker.offers("base", clock())
    assert worker.is_available(clock())


def test_only_responses_of_a_full_worker_measure_its_speed() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", slots=4))
    worker = worker_in(pool, "a")
    for _ in range(5):
        leases = [pool.lease(worker) for _ in range(4)]
        pool.lease(worker).release(Abandoned())
        clock.advance(2)
        leases[0].release(Completed(100))
        for lease in leases[1:]:
            lease.release(Abandoned())
    assert worker.speed.rate.value(clock()) is None  # slots were free at dispatch
    waiting = [pool.lease(worker) for _ in range(8)]
    clock.advance(4)
    waiting[4].release(Completed(100))
    assert worker.speed.rate.value(clock()) == pytest.approx((5 + 8) / 2 * 100 / 4)

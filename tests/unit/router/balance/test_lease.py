"""A lease counts one request, once, and tells the worker's health how it went."""

import pytest

from tests.support.balance import Clock, found, pool_of, worker_in
from vllama_pool.router.balance.lease import Abandoned, Completed, Errored, Outcome
from vllama_pool.router.errors import Faulty, Lost, ModelGone


@pytest.mark.parametrize("outcome", [Completed(5), Errored(Lost("reset")), Errored(Faulty("boom")), Abandoned()])
def test_it_is_given_back_exactly_once(outcome: Outcome) -> None:
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


def test_a_client_that_leaves_is_never_held_against_the_worker() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    for _ in range(100):
        pool.lease(worker_in(pool, "a")).release(Abandoned())
    assert worker_in(pool, "a").is_available(clock())


def test_a_client_that_leaves_during_a_probe_leaves_the_probe_to_the_next() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    worker = worker_in(pool, "a")
    pool.lease(worker).release(Errored(Lost("refused")))
    clock.advance(3)
    probe = pool.lease(worker)
    assert not worker.is_available(clock())
    probe.release(Abandoned())
    assert worker.is_available(clock())


def test_the_first_content_readmits_a_worker_before_the_answer_is_whole() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    worker = worker_in(pool, "a")
    pool.lease(worker).release(Errored(Lost("refused")))
    clock.advance(3)
    probe = pool.lease(worker)
    assert not worker.is_available(clock())
    probe.record_first_content()
    assert worker.is_available(clock())
    assert worker.weight(clock()) < 1
    probe.release(Completed(1))


def test_a_stream_that_breaks_after_it_began_suspects_the_worker() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    lease = pool.lease(worker_in(pool, "a"))
    clock.advance(1)
    lease.record_first_content()
    clock.advance(5)
    lease.release(Errored(Lost("reset")))
    assert worker_in(pool, "a").is_suspect(clock())


def test_what_was_answered_well_before_the_loss_does_not_clear_it() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    worker = worker_in(pool, "a")
    older, lost = pool.lease(worker), pool.lease(worker)
    clock.advance(1)
    lost.release(Errored(Lost("reset")))
    clock.advance(0.1)
    older.release(Completed(100))
    assert worker.is_suspect(clock())


def test_a_denied_model_is_remembered_for_that_model_only() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", "base", "lora"))
    worker = worker_in(pool, "a")
    pool.lease(worker, "lora").release(Errored(ModelGone("no such model")))
    assert not worker.offers("lora", clock())
    assert worker.offers("base", clock())
    assert worker.is_available(clock())


def test_answers_of_a_full_worker_measure_its_speed() -> None:
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
    assert worker.rate.value(clock()) is None  # the first of them was sent while slots were free
    waiting = [pool.lease(worker) for _ in range(8)]
    clock.advance(4)
    waiting[4].release(Completed(100))
    assert worker.rate.value(clock()) == pytest.approx((5 + 8) / 2 * 100 / 4)

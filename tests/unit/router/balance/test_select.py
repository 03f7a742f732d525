"""Eligibility of workers, and the choices of least-load among them."""

import random
from collections import Counter

from tests.support.balance import DRAINING, RESTARTING, Clock, found, group, pool_of, worker_in
from vllama_pool.router.balance.examine import rejections
from vllama_pool.router.balance.lease import Completed, Errored
from vllama_pool.router.balance.policies.least_load import least_load
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.balance.select import Untried, choose, count_untried
from vllama_pool.router.balance.worker_speed import SLOW_START
from vllama_pool.router.errors import Faulty, Lost, ModelGone
from vllama_pool.workers.registry.record import LoadReport


def picks(pool: Pool, clock: Clock, times: int = 400, tried: tuple[str, ...] = ()) -> Counter[str]:
    """Count the choices of each worker by least-load, without dispatching any request."""
    rng = random.Random(7)
    chosen: Counter[str] = Counter()
    for _ in range(times):
        replica = choose(group(pool), tried, clock(), rng, least_load)
        chosen[replica.worker.id if replica else "none"] += 1
    return chosen


def open_breakers(pool: Pool, clock: Clock, *worker_ids: str) -> None:
    for worker_id in worker_ids:
        for _ in range(5):
            pool.lease(worker_in(pool, worker_id)).release(Errored(Faulty("boom")))


def make_suspect(pool: Pool, *worker_ids: str) -> None:
    for worker_id in worker_ids:
        pool.lease(worker_in(pool, worker_id)).release(Errored(Lost("refused")))


def test_equal_workers_are_chosen_equally_often_whatever_their_order() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(name) for name in "abcdef"))
    chosen = picks(pool, clock, 6000)
    assert set(chosen) == set("abcdef")
    assert max(chosen.values()) < 1.15 * min(chosen.values())


def test_the_less_busy_worker_is_chosen() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", load=LoadReport(running=3)), found("b", load=LoadReport(running=2)))
    assert picks(pool, clock) == {"b": 400}


def test_a_full_worker_ranks_behind_a_busier_one_with_a_free_slot() -> None:
    clock = Clock()
    pool = pool_of(
        clock, found("a", slots=4, load=LoadReport(running=4)), found("b", slots=64, load=LoadReport(running=30))
    )
    assert picks(pool, clock) == {"b": 400}


def test_among_full_workers_a_faster_one_may_have_a_longer_queue() -> None:
    clock = Clock()
    pool = pool_of(
        clock,
        found("a", slots=4, speed=2.0, load=LoadReport(running=4, waiting=4)),
        found("b", slots=4, load=LoadReport(running=4, waiting=1)),
    )
    assert picks(pool, clock) == {"a": 400}


def test_a_new_worker_does_not_attract_every_request() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", slots=64, load=LoadReport(running=4)))
    pool.put(found("b"))
    rng = random.Random(1)
    dispatched: Counter[str] = Counter()
    for _ in range(20):
        replica = choose(group(pool), (), clock(), rng, least_load)
        assert replica is not None
        pool.lease(replica.worker)
        dispatched[replica.worker.id] += 1
    assert 1 <= dispatched["b"] <= 4


def test_draining_and_restarting_workers_are_never_chosen() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", load=DRAINING), found("b", load=RESTARTING))
    assert picks(pool, clock) == {"none": 400}
    pool.put(found("c"))
    assert picks(pool, clock) == {"c": 400}


def test_a_suspect_worker_is_not_chosen_until_its_next_report() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("b"))
    make_suspect(pool, "a")
    assert picks(pool, clock) == {"b": 400}
    pool.report("a", LoadReport(running=0))
    clock.advance(SLOW_START)
    assert picks(pool, clock)["a"] > 100


def test_suspect_workers_are_chosen_if_no_other_is_left() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("b"))
    make_suspect(pool, "a", "b")
    assert set(picks(pool, clock)) == {"a", "b"}
    assert count_untried(group(pool), (), clock()) == Untried(healthy=0, last_resort=2)


def test_a_down_worker_is_chosen_after_all_others() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("b"))
    pool.mark_down("a")
    make_suspect(pool, "b")
    assert picks(pool, clock) == {"b": 400}
    assert picks(pool, clock, tried=("b",)) == {"a": 400}
    assert picks(pool, clock, tried=("a", "b")) == {"none": 400}


def test_workers_with_open_breakers_are_not_chosen_while_half_are_healthy() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(name) for name in "abcd"))
    open_breakers(pool, clock, "a", "b")
    assert set(picks(pool, clock)) == {"c", "d"}
    assert count_untried(group(pool), (), clock()) == Untried(healthy=2, last_resort=2)


def test_a_panic_ignores_breakers_but_not_suspect_or_draining_workers() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(name) for name in "abcd"), found("e", load=DRAINING))
    open_breakers(pool, clock, "a", "b")
    make_suspect(pool, "c")
    assert set(picks(pool, clock)) == {"a", "b", "d"}


def test_the_only_worker_is_chosen_though_its_breaker_is_open() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    open_breakers(pool, clock, "a")
    assert picks(pool, clock) == {"a": 400}


def test_a_half_open_worker_gets_one_request_until_its_response() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("b"))
    open_breakers(pool, clock, "a")
    clock.advance(5)
    probe = pool.lease(worker_in(pool, "a"))
    assert picks(pool, clock) == {"b": 400}
    probe.release(Completed(1))
    clock.advance(SLOW_START)
    assert picks(pool, clock)["a"] > 100


def test_a_worker_that_answered_404_for_the_model_is_chosen_last() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("b"))
    pool.lease(worker_in(pool, "a"), "m").release(Errored(ModelGone("no such model")))
    assert picks(pool, clock) == {"b": 400}
    assert picks(pool, clock, tried=("b",)) == {"a": 400}


def test_a_healthy_fallback_model_is_preferred_to_a_suspect_replica() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", "first"), found("b", "second"))
    groups = (*group(pool, "first"), *group(pool, "second"))
    rng = random.Random(1)

    def chosen() -> str:
        replica = choose(groups, (), clock(), rng, least_load)
        assert replica is not None
        return replica.model.name

    assert chosen() == "first"
    make_suspect(pool, "a")
    assert chosen() == "second"
    make_suspect(pool, "b")
    assert chosen() == "first"


def test_a_worker_that_fails_fast_does_not_attract_every_request() -> None:
    clock = Clock()
    pool = pool_of(clock, found("broken"), found("busy", load=LoadReport(running=4)))
    pool.lease(worker_in(pool, "broken")).release(Errored(Faulty("boom")))
    assert picks(pool, clock) == {"busy": 400}
    clock.advance(6)
    assert picks(pool, clock) == {"broken": 400}


def test_workers_in_slow_start_together_share_requests() -> None:
    clock = Clock()
    pool = pool_of(clock, found("first"), settled=False)
    clock.advance(0.01)
    pool.put(found("second"))
    clock.advance(1)
    assert set(picks(pool, clock)) == {"first", "second"}


def test_rejections_give_the_reason_for_each_worker() -> None:
    clock = Clock()
    pool = pool_of(
        clock, *(found(worker, slots=1) for worker in ("busy", "denied", "draining", "down", "free", "failing"))
    )
    for worker in ("lost", "tried"):
        pool.put(found(worker))
    clock.advance(60)
    pool.report("draining", DRAINING)
    pool.mark_down("down")
    pool.mark_suspect("lost")
    pool.lease(worker_in(pool, "busy"))
    for _ in range(5):
        pool.lease(worker_in(pool, "failing")).release(Errored(Faulty("boom")))
    pool.lease(worker_in(pool, "denied"), "m").release(Errored(ModelGone("no such model")))
    assert rejections(group(pool), ["tried"], clock(), least_load) == {
        "busy": "full, score 2.00",
        "denied": "answered 404 for m",
        "draining": "draining",
        "down": "down",
        "free": "score 1.00",
        "failing": "breaker open",
        "lost": "suspect",
        "tried": "tried already",
    }

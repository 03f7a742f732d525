"""Who may be asked, and who of them is."""

import random
from collections import Counter

from tests.support.balance import DRAINING, RESTARTING, Clock, found, group, pool_of, worker_in
from vllama_pool.router.balance.lease import Completed, Errored
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.balance.select import (
    POLICIES,
    RoundRobin,
    Untried,
    choose,
    count_untried,
    least_load,
    rejections,
)
from vllama_pool.router.balance.worker import SLOW_START
from vllama_pool.router.errors import Faulty, Lost, ModelGone
from vllama_pool.workers.registry.record import LoadReport


def picks(pool: Pool, clock: Clock, times: int = 400, tried: tuple[str, ...] = ()) -> Counter[str]:
    """How often each worker is chosen by least-load, nothing being dispatched meanwhile."""
    rng = random.Random(7)
    chosen: Counter[str] = Counter()
    for _ in range(times):
        replica = choose(group(pool), tried, clock(), rng, least_load)
        chosen[replica.worker.id if replica else "nobody"] += 1
    return chosen


def break_(pool: Pool, clock: Clock, *worker_ids: str) -> None:
    """Open these workers' breakers."""
    for worker_id in worker_ids:
        for _ in range(5):
            pool.lease(worker_in(pool, worker_id)).release(Errored(Faulty("boom")))


def lose(pool: Pool, *worker_ids: str) -> None:
    for worker_id in worker_ids:
        pool.lease(worker_in(pool, worker_id)).release(Errored(Lost("refused")))


def test_equals_share_evenly_wherever_they_stand() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(name) for name in "abcdef"))
    chosen = picks(pool, clock, 6000)
    assert set(chosen) == set("abcdef")
    assert max(chosen.values()) < 1.15 * min(chosen.values())


def test_the_less_busy_one_is_chosen() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", load=LoadReport(running=3)), found("b", load=LoadReport(running=2)))
    assert picks(pool, clock) == {"b": 400}


def test_one_without_a_free_slot_ranks_behind_a_busier_one_with_one() -> None:
    clock = Clock()
    pool = pool_of(
        clock, found("a", slots=4, load=LoadReport(running=4)), found("b", slots=64, load=LoadReport(running=30))
    )
    assert picks(pool, clock) == {"b": 400}


def test_among_the_full_the_faster_ones_queue_counts_less() -> None:
    clock = Clock()
    pool = pool_of(
        clock,
        found("a", slots=4, speed=2.0, load=LoadReport(running=4, waiting=4)),
        found("b", slots=4, load=LoadReport(running=4, waiting=1)),
    )
    assert picks(pool, clock) == {"a": 400}


def test_a_new_worker_does_not_attract_everything() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", slots=64, load=LoadReport(running=4)))
    pool.put(found("b"))
    rng = random.Random(1)
    taken: Counter[str] = Counter()
    for _ in range(20):
        replica = choose(group(pool), (), clock(), rng, least_load)
        assert replica is not None
        pool.lease(replica.worker)
        taken[replica.worker.id] += 1
    assert 1 <= taken["b"] <= 4


def test_draining_and_restarting_workers_are_never_chosen() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", load=DRAINING), found("b", load=RESTARTING))
    assert picks(pool, clock) == {"nobody": 400}
    pool.put(found("c"))
    assert picks(pool, clock) == {"c": 400}


def test_a_lost_worker_is_out_until_something_good_is_heard_of_it() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("b"))
    lose(pool, "a")
    assert picks(pool, clock) == {"b": 400}
    pool.report("a", LoadReport(running=0))
    clock.advance(SLOW_START)
    assert picks(pool, clock)["a"] > 100


def test_the_lost_are_the_last_resort_when_all_are_out() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("b"))
    lose(pool, "a", "b")
    assert set(picks(pool, clock)) == {"a", "b"}
    assert count_untried(group(pool), (), clock()) == Untried(healthy=0, last_resort=2)


def test_silent_ones_come_after_all_others() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("b"))
    pool.mark_down("a")
    lose(pool, "b")
    assert picks(pool, clock) == {"b": 400}
    assert picks(pool, clock, tried=("b",)) == {"a": 400}
    assert picks(pool, clock, tried=("a", "b")) == {"nobody": 400}


def test_an_open_breaker_is_out_while_half_are_well() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(name) for name in "abcd"))
    break_(pool, clock, "a", "b")
    assert set(picks(pool, clock)) == {"c", "d"}
    assert count_untried(group(pool), (), clock()) == Untried(healthy=2, last_resort=2)


def test_in_a_panic_breakers_are_ignored_but_not_lost_or_draining_workers() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(name) for name in "abcd"), found("e", load=DRAINING))
    break_(pool, clock, "a", "b")
    lose(pool, "c")
    assert set(picks(pool, clock)) == {"a", "b", "d"}


def test_the_only_worker_is_asked_however_ill_it_is() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    break_(pool, clock, "a")
    assert picks(pool, clock) == {"a": 400}


def test_half_open_one_request_goes_through_until_it_is_answered() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("b"))
    break_(pool, clock, "a")
    clock.advance(5)
    probe = pool.lease(worker_in(pool, "a"))
    assert picks(pool, clock) == {"b": 400}
    probe.release(Completed(1))
    clock.advance(SLOW_START)
    assert picks(pool, clock)["a"] > 100


def test_a_worker_that_denied_the_model_is_passed_over_while_there_is_another() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("b"))
    pool.lease(worker_in(pool, "a"), "m").release(Errored(ModelGone("no such model")))
    assert picks(pool, clock) == {"b": 400}
    assert picks(pool, clock, tried=("b",)) == {"a": 400}


def test_a_healthy_stand_in_is_preferred_to_a_doubtful_replica() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", "first"), found("b", "second"))
    groups = (pool.replicas_for("first"), pool.replicas_for("second"))
    rng = random.Random(1)

    def chosen() -> str:
        replica = choose(groups, (), clock(), rng, least_load)
        assert replica is not None
        return replica.model.name

    assert chosen() == "first"
    lose(pool, "a")
    assert chosen() == "second"
    lose(pool, "b")
    assert chosen() == "first"


def test_round_robin_takes_turns_also_when_workers_come_and_go() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(name) for name in "abc"))
    policy, rng = RoundRobin(), random.Random(1)

    def turn(*names: str) -> str:
        return policy([worker_in(pool, name) for name in names], clock(), rng).id

    assert [turn("a", "b", "c") for _ in range(4)] == ["a", "b", "c", "a"]
    assert [turn("a", "c") for _ in range(3)] == ["c", "a", "c"]
    assert turn("a", "b", "c") == "b"


def test_policies_with_a_memory_do_not_share_it() -> None:
    assert POLICIES["round-robin"]() is not POLICIES["round-robin"]()
    assert POLICIES["least-load"]() is least_load


def test_a_worker_that_fails_fast_does_not_attract_everything() -> None:
    clock = Clock()
    pool = pool_of(clock, found("broken"), found("busy", load=LoadReport(running=4)))
    pool.lease(worker_in(pool, "broken")).release(Errored(Faulty("boom")))
    assert picks(pool, clock) == {"busy": 400}
    clock.advance(6)
    assert picks(pool, clock) == {"broken": 400}


def test_workers_that_start_slowly_together_share_alike() -> None:
    clock = Clock()
    pool = pool_of(clock, found("first"), settled=False)
    clock.advance(0.01)
    pool.put(found("second"))
    clock.advance(1)
    assert set(picks(pool, clock)) == {"first", "second"}


def test_rejections_give_the_reason_for_each_worker() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(worker, slots=1) for worker in ("busy", "denied", "draining", "down", "free", "ill")))
    for worker in ("lost", "tried"):
        pool.put(found(worker))
    clock.advance(60)
    pool.report("draining", DRAINING)
    pool.mark_down("down")
    pool.mark_suspect("lost")
    pool.lease(worker_in(pool, "busy"))
    for _ in range(5):
        pool.lease(worker_in(pool, "ill")).release(Errored(Faulty("boom")))
    pool.lease(worker_in(pool, "denied"), "m").release(Errored(ModelGone("no such model")))
    assert rejections(group(pool), ["tried"], clock()) == {
        "busy": "full, score 2.00",
        "denied": "answered 404 for m",
        "draining": "draining",
        "down": "down",
        "free": "score 1.00",
        "ill": "breaker open",
        "lost": "suspect",
        "tried": "tried already",
    }

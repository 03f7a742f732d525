"""Sessions keep their worker."""

import random
from collections import Counter

from tests.support.balance import Clock, found, group, pool_of, worker_in
from vllama_pool.router.balance.demand import PLAIN, Demand
from vllama_pool.router.balance.hashing import stable_hash
from vllama_pool.router.balance.lease import Errored
from vllama_pool.router.balance.policies.session import Session
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.balance.select import choose
from vllama_pool.router.errors import Busy, Faulty
from vllama_pool.workers.registry.record import LoadReport

POLICY = Session()
USERS = [stable_hash(f"user {number}") for number in range(2000)]


def worker_of(pool: Pool, clock: Clock, key: int) -> str:
    replica = choose(group(pool), (), clock(), random.Random(1), POLICY, Demand(key=key))
    assert replica is not None
    return replica.worker.id


def test_an_identity_keeps_its_worker_and_identities_spread() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(name) for name in "abcd"))
    first = {key: worker_of(pool, clock, key) for key in USERS}
    assert {key: worker_of(pool, clock, key) for key in USERS} == first
    shares = Counter(first.values())
    assert max(shares.values()) < 1.15 * 500


def test_every_router_finds_the_same_worker() -> None:
    clock = Clock()
    ours, theirs = (pool_of(clock, *(found(name) for name in names)) for names in ("abcd", "dbca"))
    assert all(worker_of(ours, clock, key) == worker_of(theirs, clock, key) for key in USERS)


def test_only_the_sessions_of_a_lost_worker_move_and_they_return() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(name) for name in "abcd"))
    before = {key: worker_of(pool, clock, key) for key in USERS}
    pool.mark_down("b")
    while_out = {key: worker_of(pool, clock, key) for key in USERS}
    moved = {key for key in USERS if while_out[key] != before[key]}
    assert moved == {key for key in USERS if before[key] == "b"}
    assert len({while_out[key] for key in moved}) == 3
    pool.report("b", LoadReport())
    assert {key: worker_of(pool, clock, key) for key in USERS} == before


def test_a_new_worker_takes_only_its_own_share() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(name) for name in "abcd"))
    before = {key: worker_of(pool, clock, key) for key in USERS}
    pool.put(found("e"))
    after = {key: worker_of(pool, clock, key) for key in USERS}
    moved = [key for key in USERS if after[key] != before[key]]
    assert {after[key] for key in moved} == {"e"}
    assert len(moved) < 1.2 * len(USERS) / 5


def test_a_busy_worker_keeps_its_sessions_while_it_has_a_free_slot() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(name) for name in "abcd"))
    owner = worker_of(pool, clock, 7)
    for _ in range(7):
        pool.lease(worker_in(pool, owner))
    assert worker_of(pool, clock, 7) == owner
    pool.lease(worker_in(pool, owner))
    other = worker_of(pool, clock, 7)
    assert other != owner, "it is full, and beyond the bound"
    assert worker_of(pool, clock, 7) == other, "the next in the order"


def test_sessions_keep_their_worker_while_all_workers_are_equally_full() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(name, slots=2, load=LoadReport(running=2, waiting=8)) for name in "abcd"))
    assert Counter(worker_of(pool, clock, key) for key in USERS).keys() == set("abcd")
    owner = worker_of(pool, clock, 7)
    pool.lease(worker_in(pool, owner))
    assert worker_of(pool, clock, 7) == owner
    for _ in range(5):
        pool.lease(worker_in(pool, owner))
    assert worker_of(pool, clock, 7) != owner, "16 requests of 46 are more than 1.25 times the mean"


def test_a_worker_that_refuses_requests_is_passed_over_until_its_next_report() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(name) for name in "abcd"))
    owner = worker_of(pool, clock, 7)
    pool.lease(worker_in(pool, owner)).release(Errored(Busy("queue is full")))
    assert worker_of(pool, clock, 7) != owner
    pool.report(owner, LoadReport())
    assert worker_of(pool, clock, 7) == owner


def test_one_bad_answer_moves_no_session() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(name) for name in "abcd"))
    owner = worker_of(pool, clock, 7)
    pool.lease(worker_in(pool, owner)).release(Errored(Faulty("boom")))
    assert worker_of(pool, clock, 7) == owner


def test_a_request_without_identity_goes_by_load() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(name, load=LoadReport(running=3)) for name in "abc"), found("d"))
    rng = random.Random(1)
    picked = {POLICY.choose(tuple(pool), clock(), rng, PLAIN).id for _ in range(50)}
    assert picked == {"d"}

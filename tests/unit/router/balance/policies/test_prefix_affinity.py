"""Prompts return to the worker that has their beginning, within the bound of load."""

import random
from collections import Counter

import pytest

from tests.support.balance import Clock, found, group, pool_of, worker_in
from vllama_pool.router.balance.demand import PLAIN, Demand
from vllama_pool.router.balance.hashing import stable_hash
from vllama_pool.router.balance.lease import Completed, Errored, Lease
from vllama_pool.router.balance.policies import prefix_affinity
from vllama_pool.router.balance.policies.prefix_affinity import MAX_HOLDERS, MAX_PREFIXES, PrefixAffinity
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.balance.select import choose
from vllama_pool.router.balance.worker import Worker
from vllama_pool.router.errors import Faulty
from vllama_pool.workers.registry.record import LoadReport


class Fleet:
    """Workers a, b, ... under one policy."""

    def __init__(self, workers: int, slots: int = 64, bound: float = 1.25) -> None:
        self.clock = Clock()
        self.pool: Pool = pool_of(self.clock, *(found(chr(97 + index)) for index in range(workers)), slots=slots)
        self.policy = PrefixAffinity(bound)
        self.rng = random.Random(3)

    def send(self, key: int, *prefixes: int) -> str:
        replica = choose(group(self.pool), (), self.clock(), self.rng, self.policy, Demand(key, prefixes))
        assert replica is not None
        return replica.worker.id

    def lease(self, key: int, *prefixes: int) -> Lease:
        return self.pool.lease(worker_in(self.pool, self.send(key, *prefixes)))

    def occupy(self, worker_id: str, requests: int) -> list[Lease]:
        return [self.pool.lease(worker_in(self.pool, worker_id)) for _ in range(requests)]


def keys(count: int) -> list[int]:
    return [stable_hash(f"conversation {number}") for number in range(count)]


def test_a_prompt_returns_to_its_worker_and_prompts_spread() -> None:
    fleet = Fleet(4)
    first = {key: fleet.send(key, key + 1) for key in keys(2000)}
    assert {key: fleet.send(key, key + 1, key + 2) for key in keys(2000)} == first
    assert max(Counter(first.values()).values()) < 1.15 * 500


def test_two_routers_without_common_memory_agree_on_the_first_worker() -> None:
    ours, theirs = Fleet(4), Fleet(4)
    assert all(ours.send(key) == theirs.send(key) for key in keys(200))


def test_the_longest_known_prefix_decides_where_a_conversation_was_moved() -> None:
    fleet = Fleet(4)
    owner = fleet.send(7, 71)
    leases = fleet.occupy(owner, 8)
    moved = fleet.send(7, 71, 72)
    assert moved != owner
    for lease in leases:
        lease.release(Completed(1))
    assert fleet.send(7, 71, 72, 73) == moved, "it has the latest turns"
    assert fleet.send(7, 71) in {owner, moved}, "both have the first turn"


def test_of_the_workers_that_have_a_prefix_the_least_loaded_gets_the_prompt() -> None:
    fleet = Fleet(8, bound=2)
    first = fleet.send(7, 71)
    fleet.occupy(first, 20)
    second = fleet.send(7, 71)
    assert second != first
    for worker in fleet.pool:
        if worker.id not in (first, second):
            fleet.occupy(worker.id, 20)
    assert {fleet.send(8, 71) for _ in range(20)} == {second}
    fleet.occupy(second, 30)
    assert {fleet.send(8, 71) for _ in range(20)} == {first}


@pytest.mark.parametrize(("workers", "clients"), [(4, 40), (8, 100), (16, 64), (3, 5)])
def test_no_worker_gets_more_than_the_bound_however_popular_a_prefix_is(workers: int, clients: int) -> None:
    fleet = Fleet(workers, slots=1000)
    rng = random.Random(9)
    open_leases: list[Lease] = []
    for turn in range(3000):
        key = 5 if rng.random() < 0.7 else rng.getrandbits(60)
        total = fleet.pool.in_flight + 1
        lease = fleet.lease(key, key + 1)
        limit = -(-5 * total // (4 * workers))  # 1.25 times the mean, rounded up
        assert lease.worker.in_flight <= limit
        open_leases.append(lease)
        if turn >= clients:
            open_leases.pop(rng.randrange(len(open_leases))).release(Completed(1))


def test_a_full_worker_is_passed_over_while_another_has_a_free_slot() -> None:
    fleet = Fleet(2, slots=2, bound=100)
    owner = fleet.send(7, 71)
    fleet.occupy(owner, 2)
    other = fleet.send(7, 71)
    assert other != owner
    fleet.occupy(other, 2)
    assert fleet.send(7) == owner, "all are full"


def test_a_failing_worker_is_passed_over_and_gets_its_prompts_back() -> None:
    fleet = Fleet(4)
    owner = fleet.send(7, 71)
    fleet.pool.lease(worker_in(fleet.pool, owner)).release(Errored(Faulty("boom")))
    assert fleet.send(7) != owner
    fleet.clock.advance(6)
    assert fleet.send(7) == owner


def test_only_the_prompts_of_a_lost_worker_move() -> None:
    fleet = Fleet(4)
    before = {key: fleet.send(key, key + 1) for key in keys(1000)}
    fleet.pool.mark_down("b")
    while_out = {key: fleet.send(key, key + 1) for key in keys(1000)}
    assert {key for key in before if before[key] != while_out[key]} == {key for key in before if before[key] == "b"}


def test_a_new_router_sends_prompts_to_their_workers_though_all_start_slowly() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(name) for name in "abcd"), settled=False)
    policy, rng = PrefixAffinity(), random.Random(3)
    demand = Demand(key=7)
    assert len({policy.choose(tuple(pool), clock(), rng, demand).id for _ in range(20)}) == 1


def test_a_request_without_a_prompt_goes_by_load() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(name, load=LoadReport(running=3)) for name in "abc"), found("d"))
    rng = random.Random(1)
    policy = PrefixAffinity()
    assert {policy.choose(tuple(pool), clock(), rng, PLAIN).id for _ in range(50)} == {"d"}


def test_a_pick_changes_nothing() -> None:
    fleet = Fleet(4)
    candidates: tuple[Worker, ...] = tuple(fleet.pool)
    fleet.policy.pick(candidates, fleet.clock(), fleet.rng, Demand(7, (71,)))
    assert not fleet.policy.known


def test_the_memory_is_bounded_and_forgets_what_was_not_used() -> None:
    fleet = Fleet(2)
    for prefix in range(1, MAX_PREFIXES + 1):
        fleet.send(7, prefix)
    fleet.send(7, 1)
    fleet.send(7, MAX_PREFIXES + 1)
    assert len(fleet.policy.known) == MAX_PREFIXES
    assert 1 in fleet.policy.known
    assert 2 not in fleet.policy.known


def test_the_workers_of_one_prefix_are_few() -> None:
    fleet = Fleet(8, bound=prefix_affinity.DEFAULT_BOUND)
    for _ in range(60):
        fleet.lease(7, 71)
    assert len(fleet.policy.known[71]) == MAX_HOLDERS

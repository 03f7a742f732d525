"""Turns of workers."""

import random

from tests.support.balance import Clock, Counting, found, pool_of, worker_in
from vllama_pool.router.balance.demand import PLAIN
from vllama_pool.router.balance.policies.least_load import least_load
from vllama_pool.router.balance.policies.round_robin import RoundRobin
from vllama_pool.router.balance.select import POLICIES


def test_round_robin_takes_turns_while_workers_join_and_leave() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(name) for name in "abc"))
    policy, rng = RoundRobin(), random.Random(1)

    def turn(*names: str) -> str:
        return policy.choose([worker_in(pool, name) for name in names], clock(), rng).id

    assert [turn("a", "b", "c") for _ in range(4)] == ["a", "b", "c", "a"]
    assert [turn("a", "c") for _ in range(3)] == ["c", "a", "c"]
    assert turn("a", "b", "c") == "b"


def test_round_robin_sorts_the_same_candidates_only_once() -> None:
    clock = Clock()
    workers = Counting(worker_in(pool_of(clock, found(str(number))), str(number)) for number in range(100))
    workers.looks = 0
    policy, rng = RoundRobin(), random.Random(1)
    assert [policy.choose(workers, clock(), rng).id for _ in range(300)] == [str(number % 100) for number in range(300)]
    assert workers.looks == 100 + 300


def test_round_robin_counts_turns_among_other_candidates() -> None:
    clock = Clock()
    a, b, c = (worker_in(pool_of(clock, found(name)), name) for name in "abc")
    policy, rng = RoundRobin(), random.Random(1)
    first, second = (a, b), (b, c)
    assert [policy.choose(workers, clock(), rng).id for workers in (first, second, first, second, first)] == [
        *("a", "b", "a", "c", "b"),
    ]


def test_each_round_robin_policy_has_its_own_state() -> None:
    assert POLICIES["round-robin"]() is not POLICIES["round-robin"]()
    assert POLICIES["least-load"]() is least_load


def test_a_pick_takes_no_turn() -> None:
    clock = Clock()
    workers = tuple(pool_of(clock, *(found(name) for name in "abc")))
    policy, rng = RoundRobin(), random.Random(1)
    policy.choose(workers, clock(), rng)
    assert {policy.pick(workers, clock(), rng, PLAIN).id for _ in range(5)} == {"b"}
    assert policy.choose(workers, clock(), rng).id == "b"

"""The workers that least-load compares."""

import random
from collections import Counter

import pytest

from tests.support.balance import Clock, Counting, found, pool_of, worker_in
from vllama_pool.router.balance.policies.least_load import least_load
from vllama_pool.workers.registry.record import LoadReport


def test_least_load_looks_at_four_of_a_thousand_workers() -> None:
    clock = Clock()
    workers = Counting(worker_in(pool_of(clock, found(str(number))), str(number)) for number in range(1000))
    workers.looks = 0
    chosen = {least_load.choose(workers, clock(), random.Random(seed)).id for seed in range(50)}
    assert workers.looks == 4 * 50
    assert len(chosen) > 40


def test_the_four_workers_that_least_load_compares_are_different_and_drawn_evenly() -> None:
    clock = Clock()
    pool = pool_of(clock, *(found(name, load=LoadReport(running=index)) for index, name in enumerate("abcdef")))
    rng = random.Random(7)
    chosen = Counter(least_load.choose(tuple(pool), clock(), rng).id for _ in range(6000))
    assert set(chosen) == set("abc"), "of four different workers, one of the three least busy is the least busy"
    assert chosen["a"] / 6000 == pytest.approx(4 / 6, abs=0.03)
    assert chosen["b"] / 6000 == pytest.approx(4 / 15, abs=0.03)

"""Policies over minutes of simulated time (tests/support/fleet/simulated_time.py): shares of tokens, waits, herding."""

import random
import statistics
from collections.abc import Callable, Sequence

import pytest

from tests.support.fleet.simulated_time import Figures, Fleet, Throughput, answer_lengths, batched, shared, streams
from vllama_pool.router.balance.demand import Demand
from vllama_pool.router.balance.policies.least_load import least_load
from vllama_pool.router.balance.policies.policy import Policy
from vllama_pool.router.balance.policies.round_robin import RoundRobin
from vllama_pool.router.balance.worker import Worker

SPEEDS = (0.5, 0.5, 1.0, 1.0, 1.0, 1.5, 2.0, 2.0)
CLIENTS = 200
ENGINES: dict[str, Callable[[float], Throughput]] = {
    "shared": lambda speed: shared(1000 * speed),
    "streams": lambda speed: streams(40 * speed),
    "batched": lambda speed: batched(2000 * speed, half=24),
}


def stateless(policy: Policy) -> Callable[[], Policy]:
    return lambda: policy


def closed_loop(
    engine: Callable[[float], Throughput], policy: Callable[[], Policy], slots: int, **options: bool | int
) -> Figures:
    """Eight workers of unequal speed under 200 clients that never pause, measured after 30 s."""
    fleet = Fleet([engine(speed) for speed in SPEEDS], policy, slots=slots, seed=4, **options)  # type: ignore[arg-type]
    fleet.closed_loop(CLIENTS, answer_lengths(random.Random(4)))
    return fleet.measure(warm_up=30, seconds=60)


@pytest.mark.parametrize("slots", [8, 16, 24, 26, 32, 64])
@pytest.mark.parametrize("engine", ENGINES)
def test_least_load_shares_tokens_in_proportion_to_speed(engine: str, slots: int) -> None:
    """With full, nearly full and half-empty workers: 200 clients need 25 slots of each."""
    assert closed_loop(ENGINES[engine], stateless(least_load), slots).error(SPEEDS) < 0.05


@pytest.mark.parametrize("engine", ENGINES)
def test_least_load_shares_tokens_by_speed_without_speed_reports(engine: str) -> None:
    for slots in (8, 26):
        figures = closed_loop(ENGINES[engine], stateless(least_load), slots, reports_speed=False)
        assert figures.error(SPEEDS) < 0.05


@pytest.mark.parametrize("routers", [2, 4])
@pytest.mark.parametrize("engine", ENGINES)
def test_least_load_shares_tokens_by_speed_among_several_routers(engine: str, routers: int) -> None:
    for slots in (8, 26):
        assert closed_loop(ENGINES[engine], stateless(least_load), slots, routers=routers).error(SPEEDS) < 0.15


@pytest.mark.parametrize("engine", ENGINES)
def test_round_robin_overloads_slow_workers_and_starves_fast_ones(engine: str) -> None:
    slow_and_fast = closed_loop(ENGINES[engine], RoundRobin, 16)
    assert slow_and_fast.error(SPEEDS) > 1.0
    least = closed_loop(ENGINES[engine], stateless(least_load), 16)
    assert sum(least.tokens) > 1.8 * sum(slow_and_fast.tokens)


class StaleArgmin(Policy):
    """Herds: every router picks the globally least busy worker of the last reports."""

    def pick(self, candidates: Sequence[Worker], now: float, rng: random.Random, demand: Demand) -> Worker:
        def reported(worker: Worker) -> int:
            return worker.last_report.running + worker.last_report.waiting

        best = min(map(reported, candidates))
        return rng.choice([worker for worker in candidates if reported(worker) == best])


def open_loop(policy: Callable[[], Policy]) -> Figures:
    """64 workers of unequal speed behind four routers, 85 % busy, reports a second apart."""
    engines = [batched(1400 * (1.0, 1.0, 0.5, 2.0)[index % 4], half=12.8) for index in range(64)]
    fleet = Fleet(engines, policy, slots=32, routers=4, beat=1.0, seed=3)
    draw = answer_lengths(random.Random(9))
    mean = statistics.mean(draw() for _ in range(20_000))
    capacity = sum(throughput(32) for throughput in engines)
    fleet.arrivals(0.85 * capacity / mean, answer_lengths(random.Random(5)))
    return fleet.measure(warm_up=40, seconds=30)


def test_least_of_four_does_not_herd_on_stale_reports() -> None:
    ours, stale, turns = (open_loop(policy) for policy in (stateless(least_load), StaleArgmin, RoundRobin))
    assert statistics.mean(ours.latencies) < 0.5 * statistics.mean(stale.latencies)
    assert statistics.mean(ours.latencies) < 0.7 * statistics.mean(turns.latencies)
    assert statistics.mean(ours.waits) < 0.1
    assert statistics.mean(stale.waits) > 1.0


def test_a_worker_that_becomes_ten_times_slower_soon_gets_few_requests() -> None:
    speed = {"now": 1.0}
    engines = [streams(40), streams(40), lambda running: 40 * speed["now"] * running]
    fleet = Fleet(engines, stateless(least_load), slots=32, seed=2)
    fleet.closed_loop(50, answer_lengths(random.Random(2)))
    fleet.run(60)
    speed["now"] = 0.1
    fleet.run(70)
    before = [len(engine.waits) for engine in fleet.engines]
    fleet.run(130)
    started = [len(engine.waits) - count for engine, count in zip(fleet.engines, before, strict=True)]
    assert started[2] / sum(started) < 0.2 / 3

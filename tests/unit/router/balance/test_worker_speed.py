"""A worker's speed in scores, and its slow start."""

from __future__ import annotations

import pytest

from vllama_pool.router.balance.speed import Peers
from vllama_pool.router.balance.worker_speed import INITIAL_WEIGHT, SLOW_START, WorkerSpeed
from vllama_pool.workers.registry.record import LoadReport


def test_reports_set_the_rate_after_two_seconds_at_full_load() -> None:
    """A report's rate is an average over a second or two, which must not include ramp-up."""
    speed = WorkerSpeed(1.0, 0.0)
    speed.record_report(LoadReport(running=2, tokens_per_second=5), 2, 0.0, 1)
    speed.record_report(LoadReport(running=2, tokens_per_second=40), 2, 1.5, 2.5)
    assert speed.rate.value(2.5) is None
    speed.record_report(LoadReport(running=2, tokens_per_second=80), 2, 0.5, 3)
    assert speed.rate.value(3) == 80
    speed.record_report(LoadReport(running=1, tokens_per_second=30), 2, 1.0, 4)
    speed.record_report(LoadReport(running=2, tokens_per_second=30), 2, 1.0, 5)
    assert speed.rate.value(5) == 80


def test_a_queue_makes_a_worker_with_unknown_slots_full() -> None:
    speed = WorkerSpeed(1.0, 0.0)
    for now in (1.0, 3.0):
        speed.record_report(LoadReport(running=2, waiting=1, tokens_per_second=40), 0, 1.0, now)
    assert speed.rate.value(3) == 40


def test_a_new_worker_gets_its_full_share_after_ten_seconds() -> None:
    speed = WorkerSpeed(1.0, 100)
    assert speed.weight(100) == INITIAL_WEIGHT
    assert INITIAL_WEIGHT < speed.weight(105) < 1
    assert speed.weight(100 + SLOW_START) == 1


def test_a_speed_is_relative_to_the_peers_when_full_and_declared_with_a_free_slot() -> None:
    peers, fast, slow = Peers(), WorkerSpeed(1.0, 0.0), WorkerSpeed(1.0, 0.0)
    for name, speed, rate in (("fast", fast, 300), ("slow", slow, 100)):
        speed.peers = peers
        peers.join(name, speed.rate, speed.pace)
        for now in range(1, 60):
            speed.record_report(LoadReport(running=1, tokens_per_second=rate), 1, 1.0, now)
    for speed in (fast, slow):
        speed.compare(60)
    assert (fast.full, slow.full) == pytest.approx((1.5, 0.5), abs=0.01)
    assert (fast.free, slow.free) == (1.0, 1.0)


def test_a_worker_far_slower_than_its_peers_starts_slowly_once_it_has_recovered() -> None:
    peers, usual, slow = Peers(), WorkerSpeed(1.0, 0.0), WorkerSpeed(1.0, 0.0)
    for name, speed, rate in (("usual", usual, 100), ("slow", slow, 10)):
        speed.peers = peers
        peers.join(name, speed.rate, speed.pace)
        for now in range(1, 10):
            speed.record_report(LoadReport(running=1, tokens_per_second=rate), 8, 1.0, now)
    slow.compare(20)
    assert slow.free == pytest.approx(0.1)
    assert slow.weight(20) == 1
    slow.pace.forget()
    slow.compare(21)
    assert slow.free == 1.0
    assert slow.weight(21) == INITIAL_WEIGHT


def test_a_new_process_has_the_declared_speed_and_starts_slowly() -> None:
    speed = WorkerSpeed(2.0, 0.0)
    speed.free = 0.2
    speed.pace.record_report(1, 50, 2.0, 60)
    speed.restart(60)
    assert (speed.free, speed.weight(60)) == (2.0, INITIAL_WEIGHT)
    assert speed.pace.value(60) is None


def test_a_newly_declared_speed_counts_at_once_with_a_free_slot() -> None:
    speed = WorkerSpeed(1.0, 0.0)
    speed.declare(3.0)
    assert (speed.free, speed.pace.declared) == (3.0, 3.0)

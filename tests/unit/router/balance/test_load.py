"""A worker's load and fullness."""

from __future__ import annotations

from tests.support.balance import READY, found
from vllama_pool.router.balance.vacancies import Vacancies
from vllama_pool.router.balance.worker import Worker
from vllama_pool.router.errors import Busy
from vllama_pool.workers.registry.record import LoadReport


def worker(slots: int = 8, *, sharers: int = 1) -> Worker:
    one = found("w", slots=slots)
    return Worker(one.record, one.endpoint, 0.0, Vacancies(sharers))


def test_load_is_other_routers_reported_load_plus_our_requests_now() -> None:
    one = worker()
    for _ in range(3):
        one.begin_request(1)
    one.report(LoadReport(running=4, waiting=1), 2)  # three are ours
    assert one.load == 5
    one.begin_request(3)
    assert one.load == 6
    for _ in range(4):
        one.end_request()
    assert one.load == 2


def test_a_report_that_still_counts_our_ended_requests_adds_no_load() -> None:
    one = worker()
    for _ in range(3):
        one.begin_request(1)
    one.report(LoadReport(running=4), 2)
    for _ in range(3):
        one.end_request()
    one.report(LoadReport(running=4), 2.25)  # vLLM still counts them
    assert one.load == 1
    one.report(LoadReport(running=1), 2.5)
    assert one.load == 0, "it may still be ours"
    one.report(LoadReport(running=1), 3.5)
    assert one.load == 0
    one.report(LoadReport(running=1), 4.5)
    assert one.load == 1, "it is another router's"


def test_a_report_below_our_own_count_does_not_reduce_the_load() -> None:
    one = worker()
    for _ in range(6):
        one.begin_request(1)
    one.report(LoadReport(running=2), 2)
    assert one.load == 6


def test_a_worker_is_full_when_its_load_reaches_its_slots() -> None:
    one = worker(slots=2)
    one.begin_request(1)
    assert not one.full
    one.begin_request(1)
    assert one.full


def test_a_worker_with_unknown_slots_is_full_while_it_has_a_queue() -> None:
    one = worker(slots=0)
    for _ in range(100):
        one.begin_request(1)
    assert not one.full
    one.report(LoadReport(running=90, waiting=1), 2)
    assert one.full


def test_a_worker_with_a_queue_and_a_full_kv_cache_is_full() -> None:
    one = worker(slots=64)
    one.report(LoadReport(running=10, waiting=2, kv_usage=0.5), 1)
    assert not one.full
    one.report(LoadReport(running=10, waiting=2, kv_usage=0.99), 2)
    assert one.full


def test_a_worker_that_answered_busy_is_full_until_its_next_report() -> None:
    one = worker()
    one.record_failure(Busy("queue full"), "m", sent=1, now=1)
    assert one.full
    assert one.is_available(1)
    one.report(READY, 2)
    assert not one.full


def test_a_worker_that_answered_busy_has_room_for_one_request_at_a_time() -> None:
    one = worker()
    one.record_failure(Busy("queue full"), "m", sent=1, now=1)
    assert one.has_room
    one.begin_request(2)
    assert not one.has_room
    one.end_request()
    one.record_success(2, 3)
    one.begin_request(3)
    assert one.has_room


def test_a_worker_has_room_for_a_tenth_more_than_its_slots() -> None:
    one = worker(slots=10)
    for _ in range(10):
        one.begin_request(1)
    assert one.full
    assert one.has_room
    one.begin_request(1)
    assert not one.has_room


def test_each_router_keeps_its_share_of_slots_that_others_fill() -> None:
    one = worker(slots=8, sharers=3)
    one.report(LoadReport(running=8), 2)
    for _ in range(3):  # 9 // 3
        assert one.has_room
        one.begin_request(3)
    assert not one.has_room


def test_the_queue_of_a_worker_with_unknown_slots_is_its_excess() -> None:
    one = worker(slots=0)
    assert one.beyond_slots == -1
    one.report(LoadReport(running=9, waiting=4), 1)
    assert one.beyond_slots == 4


def test_a_renewed_record_changes_when_a_worker_is_full() -> None:
    one = worker(slots=1)
    one.begin_request(1)
    assert one.full
    larger = found("w", slots=2)
    one.renew(larger.record, larger.endpoint, 2)
    assert not one.full
    assert (one.slots, one.beyond_slots) == (2, -1)

"""A worker's load, fullness, slow start, readmission and restarts."""

import pytest

from tests.support.balance import DRAINING, READY, RESTARTING, found
from vllama_pool.router.balance.worker import INITIAL_WEIGHT, SLOW_START, Worker
from vllama_pool.router.errors import Busy, Faulty, Lost, ModelGone
from vllama_pool.workers.registry.record import LoadReport, WorkerState


def worker(slots: int = 8, now: float = 0.0, speed: float = 1.0) -> Worker:
    one = found("w", slots=slots, speed=speed)
    return Worker(one.record, one.endpoint, now)


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


def test_reports_set_the_rate_after_two_seconds_at_full_load() -> None:
    """A report's rate is an average over a second or two, which must not include ramp-up."""
    one = worker(slots=2)
    one.report(LoadReport(running=2, tokens_per_second=5), 1)
    one.report(LoadReport(running=2, tokens_per_second=40), 2.5)
    assert one.rate.value(2.5) is None
    one.report(LoadReport(running=2, tokens_per_second=80), 3)
    assert one.rate.value(3) == 80
    one.report(LoadReport(running=1, tokens_per_second=30), 4)
    one.report(LoadReport(running=2, tokens_per_second=30), 5)
    assert one.rate.value(5) == 80


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


def test_a_new_worker_gets_its_full_share_after_ten_seconds() -> None:
    one = worker(now=100)
    assert one.weight(100) == INITIAL_WEIGHT
    assert INITIAL_WEIGHT < one.weight(105) < 1
    assert one.weight(100 + SLOW_START) == 1
    assert one.score(100) == pytest.approx(10)
    assert one.score(110) == 1


def test_a_score_uses_measured_speed_only_if_the_worker_is_full() -> None:
    one = worker(slots=2, speed=2.0)
    one.speed = 0.5
    one.begin_request(1)
    assert one.score(100) == 2 / 2.0
    one.begin_request(1)
    assert one.score(100) == 3 / 0.5


@pytest.mark.parametrize("load", [DRAINING, RESTARTING])
def test_only_a_ready_worker_is_available(load: LoadReport) -> None:
    one = worker()
    assert one.is_available(1)
    one.report(load, 1)
    assert not one.is_available(1)
    one.report(READY, 2)
    assert one.is_available(2)


def test_a_restarted_worker_is_healthy_and_in_slow_start() -> None:
    one = worker()
    for _ in range(5):
        one.record_failure(Faulty("boom"), "m", sent=50, now=50)
    one.report(RESTARTING, 51)
    one.report(READY, 90)
    assert one.is_available(90)
    assert one.weight(90) == INITIAL_WEIGHT


def test_a_higher_restart_count_starts_slow_start() -> None:
    one = worker()
    one.report(LoadReport(restarts=1), 50)
    assert one.weight(50) == INITIAL_WEIGHT
    one.report(LoadReport(restarts=1), 60)
    one.report(LoadReport(restarts=1), 70)
    assert one.weight(70) == 1


def test_lost_streams_of_the_old_process_do_not_make_the_new_one_suspect() -> None:
    one = worker()
    newer = found("w", generation=2)
    one.renew(newer.record, newer.endpoint, 60)
    one.record_failure(Lost("reset"), "m", sent=20, now=61)
    assert one.is_available(61)


def test_only_a_readmitting_beat_starts_slow_start() -> None:
    one = worker()
    one.record_failure(Lost("refused"), "m", sent=20, now=20)
    assert one.is_suspect(20)
    one.report(LoadReport(running=1), 21)
    assert one.is_available(21)
    assert one.weight(21) == INITIAL_WEIGHT
    one.report(LoadReport(running=2), 22)
    assert one.weight(31) == 1


def test_a_beat_readmits_a_worker_that_is_down_and_suspect() -> None:
    one = worker()
    one.mark_suspect(20)
    one.down = True
    one.report(READY, 21)
    assert one.is_available(21)


def test_mark_up_readmits_a_worker_that_beats_no_longer_can() -> None:
    one = worker()
    for now in (20.0, 21.0, 40.0):
        one.record_failure(Lost("refused"), "m", sent=now, now=now)
        one.report(LoadReport(running=int(now)), now + 0.5)
    assert not one.is_available(41)
    one.mark_up(41)
    assert one.is_available(41)


def test_a_worker_does_not_offer_a_model_for_5_s_after_a_404() -> None:
    one = worker()
    one.record_failure(ModelGone("no such model"), "lora", sent=1, now=1)
    assert not one.offers("lora", 2)
    assert one.offers("m", 2)
    assert one.offers("lora", 6)


def test_the_repr_shows_state_load_and_speed() -> None:
    one = worker()
    one.begin_request(1)
    one.report(LoadReport(running=5), 2)
    assert repr(one) == "<Worker w ready, 5/8 busy, 1 ours, x1.00>"


@pytest.mark.parametrize("state", [WorkerState.STARTING, WorkerState.SLEEPING])
def test_a_worker_whose_vllm_answers_nothing_is_unresponsive_until_it_is_ready(state: WorkerState) -> None:
    one = worker()
    one.report(LoadReport(state=WorkerState.READY), 1)
    assert not one.unresponsive
    one.report(LoadReport(state=state), 2)
    assert one.unresponsive
    one.report(LoadReport(state=WorkerState.READY), 3)
    assert not one.unresponsive

"""A worker's live half: how busy it is, how it comes up, and what makes it new again."""

import pytest

from tests.support.balance import DRAINING, READY, RESTARTING, found
from vllama_pool.router.balance.worker import INITIAL_WEIGHT, SLOW_START, Worker
from vllama_pool.router.errors import Busy, Faulty, Lost, ModelGone
from vllama_pool.workers.registry.record import LoadReport


def worker(slots: int = 8, now: float = 0.0, speed: float = 1.0) -> Worker:
    one = found("w", slots=slots, speed=speed)
    return Worker(one.record, one.endpoint, now)


def test_its_load_is_what_others_have_in_it_and_what_we_have_now() -> None:
    one = worker()
    for _ in range(3):
        one.begin_request(1)
    one.report(LoadReport(running=4, waiting=1), 2)  # three of them ours
    assert one.load == 5
    one.begin_request(3)
    assert one.load == 6
    for _ in range(4):
        one.end_request()
    assert one.load == 2


def test_requests_of_ours_that_have_just_ended_are_not_taken_for_those_of_others() -> None:
    one = worker()
    for _ in range(3):
        one.begin_request(1)
    one.report(LoadReport(running=4), 2)
    for _ in range(3):
        one.end_request()
    one.report(LoadReport(running=4), 2.25)  # vLLM has not seen yet that they are gone
    assert one.load == 1
    one.report(LoadReport(running=1), 2.5)
    assert one.load == 0, "we cannot tell yet whose it is"
    one.report(LoadReport(running=1), 3.5)
    assert one.load == 0
    one.report(LoadReport(running=1), 4.5)
    assert one.load == 1, "it cannot be ours"


def test_a_report_that_is_behind_our_own_count_is_no_reason_to_count_less() -> None:
    one = worker()
    for _ in range(6):
        one.begin_request(1)
    one.report(LoadReport(running=2), 2)
    assert one.load == 6


def test_it_is_full_when_its_slots_are_taken() -> None:
    one = worker(slots=2)
    one.begin_request(1)
    assert not one.full
    one.begin_request(1)
    assert one.full


def test_its_reports_tell_its_speed_once_it_has_been_full_for_a_while() -> None:
    """The rate in a report looks back a second or two, to when the requests were still coming."""
    one = worker(slots=2)
    one.report(LoadReport(running=2, tokens_per_second=5), 1)
    one.report(LoadReport(running=2, tokens_per_second=40), 2.5)
    assert one.rate.value(2.5) is None
    one.report(LoadReport(running=2, tokens_per_second=80), 3)
    assert one.rate.value(3) == 80
    one.report(LoadReport(running=1, tokens_per_second=30), 4)
    one.report(LoadReport(running=2, tokens_per_second=30), 5)
    assert one.rate.value(5) == 80


def test_with_unknown_slots_it_is_full_while_anything_waits() -> None:
    one = worker(slots=0)
    for _ in range(100):
        one.begin_request(1)
    assert not one.full
    one.report(LoadReport(running=90, waiting=1), 2)
    assert one.full


def test_a_queue_behind_a_full_cache_means_full_whatever_the_slots_say() -> None:
    one = worker(slots=64)
    one.report(LoadReport(running=10, waiting=2, kv_usage=0.5), 1)
    assert not one.full
    one.report(LoadReport(running=10, waiting=2, kv_usage=0.99), 2)
    assert one.full


def test_having_turned_a_request_away_it_is_full_until_it_says_otherwise() -> None:
    one = worker()
    one.record_failure(Busy("queue full"), "m", sent=1, now=1)
    assert one.full
    assert one.is_available(1)
    one.report(READY, 2)
    assert not one.full


def test_a_new_worker_comes_to_its_share_over_ten_seconds() -> None:
    one = worker(now=100)
    assert one.weight(100) == INITIAL_WEIGHT
    assert INITIAL_WEIGHT < one.weight(105) < 1
    assert one.weight(100 + SLOW_START) == 1
    assert one.score(100) == pytest.approx(10)
    assert one.score(110) == 1


def test_measured_speed_counts_for_its_queue_and_declared_speed_for_its_slots() -> None:
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


def test_coming_back_from_a_restart_it_starts_slowly_and_with_a_clean_slate() -> None:
    one = worker()
    for _ in range(5):
        one.record_failure(Faulty("boom"), "m", sent=50, now=50)
    one.report(RESTARTING, 51)
    one.report(READY, 90)
    assert one.is_available(90)
    assert one.weight(90) == INITIAL_WEIGHT


def test_a_restart_between_two_beats_shows_in_the_count_of_restarts() -> None:
    one = worker()
    one.report(LoadReport(restarts=1), 50)
    assert one.weight(50) == INITIAL_WEIGHT
    one.report(LoadReport(restarts=1), 60)
    one.report(LoadReport(restarts=1), 70)
    assert one.weight(70) == 1


def test_streams_of_the_old_process_that_break_late_do_not_harm_the_new_one() -> None:
    one = worker()
    newer = found("w", generation=2)
    one.renew(newer.record, newer.endpoint, 60)
    one.record_failure(Lost("reset"), "m", sent=20, now=61)
    assert one.is_available(61)


def test_readmission_by_a_beat_is_slow_and_an_ordinary_beat_changes_nothing() -> None:
    one = worker()
    one.record_failure(Lost("refused"), "m", sent=20, now=20)
    assert one.is_suspect(20)
    one.report(LoadReport(running=1), 21)
    assert one.is_available(21)
    assert one.weight(21) == INITIAL_WEIGHT
    one.report(LoadReport(running=2), 22)
    assert one.weight(31) == 1


def test_a_beat_of_a_silent_and_suspected_worker_ends_both() -> None:
    one = worker()
    one.mark_suspect(20)
    one.down = True
    one.report(READY, 21)
    assert one.is_available(21)


def test_a_probe_of_our_own_ends_suspicion_however_often_beats_were_wrong() -> None:
    one = worker()
    for now in (20.0, 21.0, 40.0):
        one.record_failure(Lost("refused"), "m", sent=now, now=now)
        one.report(LoadReport(running=int(now)), now + 0.5)
    assert not one.is_available(41)
    one.mark_up(41)
    assert one.is_available(41)


def test_a_model_that_it_denied_is_not_asked_of_it_for_a_while() -> None:
    one = worker()
    one.record_failure(ModelGone("no such model"), "lora", sent=1, now=1)
    assert not one.offers("lora", 2)
    assert one.offers("m", 2)
    assert one.offers("lora", 6)


def test_it_shows_what_matters_at_a_glance() -> None:
    one = worker()
    one.begin_request(1)
    one.report(LoadReport(running=5), 2)
    assert repr(one) == "<Worker w ready, 5/8 busy, 1 ours, x1.00>"

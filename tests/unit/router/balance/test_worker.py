"""A worker's readmission, restarts and refusals."""

import pytest

from tests.support.balance import DRAINING, READY, RESTARTING, found
from vllama_pool.router.balance.worker import Worker
from vllama_pool.router.balance.worker_speed import INITIAL_WEIGHT
from vllama_pool.router.errors import Faulty, Lost, ModelGone
from vllama_pool.workers.registry.record import LoadReport, WorkerState


def worker(slots: int = 8, now: float = 0.0, speed: float = 1.0) -> Worker:
    one = found("w", slots=slots, speed=speed)
    return Worker(one.record, one.endpoint, now)


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
    assert one.speed.weight(90) == INITIAL_WEIGHT


def test_a_higher_restart_count_starts_slow_start() -> None:
    one = worker()
    one.report(LoadReport(restarts=1), 50)
    assert one.speed.weight(50) == INITIAL_WEIGHT
    one.report(LoadReport(restarts=1), 60)
    one.report(LoadReport(restarts=1), 70)
    assert one.speed.weight(70) == 1


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
    assert one.speed.weight(21) == INITIAL_WEIGHT
    one.report(LoadReport(running=2), 22)
    assert one.speed.weight(31) == 1


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

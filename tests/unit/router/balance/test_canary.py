"""The choice of workers that need a canary."""

from __future__ import annotations

import pytest

from tests.support.balance import DRAINING, Clock, found, pool_of, worker_in
from vllama_pool.router.balance.canary import RECHECK, Need, Question, is_due, question_for
from vllama_pool.router.balance.lease import Errored
from vllama_pool.router.balance.worker import Worker
from vllama_pool.router.errors import Busy, Lost
from vllama_pool.workers.registry.record import LoadReport, ModelInfo

QUIET = Need(60.0, readiness_asked=False)
ASKED = Need(60.0, readiness_asked=True)
CHAT = ModelInfo(name="m", capabilities=("completion", "tools"))
NEVER = float("-inf")


def idle_worker(clock: Clock, slots: int = 8) -> Worker:
    return worker_in(pool_of(clock, found("a", CHAT, slots=slots)), "a")


def test_an_idle_worker_without_failures_gets_a_canary_only_while_readiness_is_asked_for() -> None:
    clock = Clock()
    worker = idle_worker(clock)
    assert not is_due(worker, QUIET, NEVER, clock())
    assert is_due(worker, ASKED, NEVER, clock())


def test_a_token_or_a_canary_within_the_interval_is_enough() -> None:
    clock = Clock()
    worker = idle_worker(clock)
    assert not is_due(worker, ASKED, clock() - 59, clock())
    worker.answered_at = clock() - 59
    assert not is_due(worker, ASKED, NEVER, clock())
    worker.answered_at = clock() - 60
    assert is_due(worker, ASKED, clock() - 60, clock())


def test_a_worker_with_requests_and_no_token_is_asked_unless_it_is_full_or_has_a_queue() -> None:
    clock = Clock()
    worker = idle_worker(clock, slots=2)
    worker.begin_request(clock())
    assert is_due(worker, QUIET, NEVER, clock())
    worker.begin_request(clock())
    assert not is_due(worker, QUIET, NEVER, clock())
    worker.end_request()
    worker.report(LoadReport(running=1, waiting=1), clock())
    assert not is_due(worker, QUIET, NEVER, clock())


def test_a_worker_whose_latest_request_failed_is_asked_once_its_hold_ends() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", CHAT))
    worker = worker_in(pool, "a")
    pool.lease(worker).release(Errored(Lost("reset")))
    assert not is_due(worker, QUIET, NEVER, clock())
    clock.advance(3)
    assert is_due(worker, QUIET, NEVER, clock())
    assert not is_due(worker, QUIET, clock() - RECHECK + 0.1, clock())


def test_a_busy_answer_alone_leads_to_a_canary_after_the_interval() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", CHAT))
    worker = worker_in(pool, "a")
    pool.lease(worker).release(Errored(Busy("full")))
    pool.report("a", LoadReport())
    assert is_due(worker, QUIET, NEVER, clock())
    assert not is_due(worker, QUIET, clock() - 59, clock())


def test_a_silent_worker_is_asked_again_soon_even_if_requests_fill_it() -> None:
    clock = Clock()
    worker = idle_worker(clock, slots=1)
    worker.begin_request(clock())
    worker.mark_silent("generates nothing", clock())
    assert is_due(worker, QUIET, clock() - RECHECK, clock())
    assert not is_due(worker, QUIET, clock() - RECHECK + 0.1, clock())


def test_a_worker_that_drains_or_is_down_is_left_alone() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", CHAT, load=DRAINING), found("b", CHAT))
    pool.mark_down("b")
    assert not any(is_due(worker, ASKED, NEVER, clock()) for worker in pool)


@pytest.mark.parametrize(
    ("models", "question"),
    [
        ((CHAT,), Question("m", embeds=False)),
        ((ModelInfo(name="v", capabilities=("embedding",)), CHAT), Question("v", embeds=True)),
        ((ModelInfo(name="w", capabilities=("audio",)), CHAT), Question("m", embeds=False)),
        ((ModelInfo(name="w", capabilities=("audio",)),), None),
    ],
)
def test_the_first_model_that_generates_or_embeds_is_asked(
    models: tuple[ModelInfo, ...], question: Question | None
) -> None:
    clock = Clock()
    assert question_for(worker_in(pool_of(clock, found("a", *models)), "a")) == question

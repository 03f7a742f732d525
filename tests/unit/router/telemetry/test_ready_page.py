"""Readiness per model, from the pool's workers."""

from __future__ import annotations

import pytest

from tests.support.balance import DRAINING, Clock, found, pool_of, worker_in
from vllama_pool.router.balance.lease import ABANDONED, Completed, Errored
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.errors import Lost, Refused
from vllama_pool.router.telemetry.ready_page import (
    NEVER_SEEN,
    NO_MODEL,
    LastFailure,
    ModelReady,
    model_ready,
    not_ready,
)
from vllama_pool.workers.registry.record import LoadReport

WINDOW = 60.0
GOOD = ModelReady(workers=1, available=1, answered=0, full=0, waiting=0)
BAD = ModelReady(workers=1, available=0, answered=0, full=0, waiting=0)


def ready(pool: Pool, clock: Clock, queued: int = 0) -> ModelReady:
    return model_ready(pool.replicas_for("m"), clock(), WINDOW, queued=queued)


def test_workers_that_drain_or_are_down_are_known_but_not_available() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("b"), found("c", load=DRAINING))
    pool.mark_down("b")
    page = ready(pool, clock)
    assert (page.workers, page.available, page.can_answer) == (3, 1, True)


def test_a_worker_has_answered_from_its_first_content_until_a_minute_later() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("b"))
    assert ready(pool, clock).answered == 0
    lease = pool.lease(worker_in(pool, "a"), "m")
    assert ready(pool, clock).answered == 0
    lease.record_first_content()
    lease.release(Completed(3))
    clock.advance(WINDOW)
    assert ready(pool, clock).answered == 1
    clock.advance(0.1)
    assert ready(pool, clock).answered == 0


def test_tokens_that_a_worker_reports_are_answers_to_somebody() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    pool.report("a", LoadReport(tokens_per_second=12.0))
    assert ready(pool, clock).answered == 1


def test_waiting_requests_are_those_in_workers_and_in_the_router() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", slots=2))
    pool.report("a", LoadReport(running=2, waiting=3))
    page = ready(pool, clock, queued=4)
    assert (page.full, page.waiting) == (1, 7)


def test_the_latest_failure_of_the_models_workers_is_shown_with_its_age() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("b"))
    pool.lease(worker_in(pool, "a")).release(Errored(Lost("reset")))
    clock.advance(2)
    pool.mark_suspect("b")
    clock.advance(1.5)
    assert ready(pool, clock).last_failure == LastFailure("Probe", 1.5)


def test_a_refused_request_and_a_client_that_left_are_no_failures_of_a_worker() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"))
    pool.lease(worker_in(pool, "a")).release(Errored(Refused("bad", status=400)))
    pool.lease(worker_in(pool, "a")).release(ABANDONED)
    assert ready(pool, clock).last_failure is None


def test_one_worker_of_two_models_counts_for_both_but_once_for_each() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a", "m", "n"))
    assert model_ready((*pool.replicas_for("m"), *pool.replicas_for("n")), clock(), WINDOW).workers == 1


def test_a_router_is_ready_without_any_model_by_default() -> None:
    assert not_ready("process", "", True, {"m": BAD}) == ()
    assert not_ready("process", "", True, {}) == ()


def test_a_router_that_drains_or_has_not_seen_its_fleet_is_not_ready() -> None:
    assert not_ready("process", "draining", True, {"m": GOOD}) == ("draining",)
    assert not_ready("process", "", False, {}) == (NEVER_SEEN,)


@pytest.mark.parametrize(
    ("policy", "models", "reasons"),
    [
        ("any-model", {"m": BAD, "n": GOOD}, ()),
        ("any-model", {"m": BAD}, (NO_MODEL,)),
        ("any-model", {}, ()),
        ("all-models", {"m": BAD, "n": GOOD}, ("1 of 2 models have no available worker",)),
        ("all-models", {"n": GOOD}, ()),
    ],
)
def test_settings_make_missing_models_count(policy: object, models: dict[str, ModelReady], reasons: object) -> None:
    assert not_ready(policy, "", True, models) == reasons  # type: ignore[arg-type]

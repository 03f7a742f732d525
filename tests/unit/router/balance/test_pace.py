"""Workers that are far slower than their peers."""

from __future__ import annotations

import pytest

from tests.support.balance import Clock, found, pool_of, worker_in
from vllama_pool.router.balance.pace import LIFETIME, MAX_GAP, MIN_DRAG, Pace, drag, usual_pace
from vllama_pool.router.balance.pool import Pool
from vllama_pool.router.balance.score import score
from vllama_pool.workers.registry.record import LoadReport


def test_a_pace_is_the_tokens_per_second_of_one_request() -> None:
    pace = Pace()
    assert pace.value(0) is None
    for second in range(1, 20):
        pace.record_report(4, 200.0, 1.0, second)
    assert pace.value(19) == pytest.approx(50)


def test_reports_without_requests_change_no_pace_until_it_is_too_old() -> None:
    pace = Pace()
    pace.record_report(4, 200.0, 1.0, 1.0)
    pace.record_report(0, 0.0, 1.0, 2.0)
    assert pace.value(1.0 + LIFETIME) == pytest.approx(50)
    assert pace.value(1.1 + LIFETIME) is None


def test_a_report_after_a_gap_says_nothing_about_the_gap() -> None:
    pace = Pace()
    pace.record_report(5, 0.0, MAX_GAP + 1, 10.0)
    assert pace.value(10.0) is None


def test_one_short_request_is_not_enough_evidence() -> None:
    pace = Pace()
    pace.record_report(1, 2.0, 0.5, 1.0)
    assert pace.value(1.0) is None


@pytest.mark.parametrize(
    ("pace", "peers", "expected"),
    [
        (50.0, (50.0,), 1.0),
        (5.0, (50.0, 5.0), 0.1),
        (20.0, (50.0, 20.0), 1.0),
        (5.0, (50.0, 60.0, 5.0, 5.0), 0.1),
        (0.0, (50.0, 0.0), MIN_DRAG),
        (0.0, (0.0, 0.0), 1.0),
    ],
)
def test_only_a_pace_below_a_third_of_the_usual_one_is_a_drag(
    pace: float, peers: tuple[float, ...], expected: float
) -> None:
    assert drag(pace, usual_pace(peers)) == pytest.approx(expected)


def report_for(pool: Pool, clock: Clock, seconds: int, **per_stream: float) -> None:
    for _ in range(seconds):
        clock.advance(1)
        for name, tokens in per_stream.items():
            pool.report(name, LoadReport(running=2, tokens_per_second=2 * tokens))


def test_a_worker_that_turns_slow_ranks_behind_a_loaded_peer_and_is_tried_again_later() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("b"), found("slow"))
    a, slow = worker_in(pool, "a"), worker_in(pool, "slow")
    report_for(pool, clock, 6, a=50.0, b=50.0, slow=50.0)
    assert score(slow, clock()) == pytest.approx(score(a, clock()))
    report_for(pool, clock, 10, a=50.0, b=50.0, slow=5.0)
    pool.report("slow", LoadReport())
    assert slow.load < a.load
    assert score(slow, clock()) > 2 * score(a, clock())
    clock.advance(LIFETIME + 1)
    for name in ("a", "b", "slow"):
        pool.report(name, LoadReport())
    assert score(slow, clock()) > score(a, clock()), "slowly, as a worker that is readmitted"
    clock.advance(10)
    assert score(slow, clock()) == pytest.approx(score(a, clock()))


def test_a_worker_with_most_of_the_requests_is_not_slow_for_that() -> None:
    """Its requests share what it generates: on a CPU, twelve get a twelfth each."""
    clock = Clock()
    pool = pool_of(clock, found("busy"), found("calm"))
    for _ in range(10):
        clock.advance(1)
        pool.report("busy", LoadReport(running=12, tokens_per_second=48))
        pool.report("calm", LoadReport(running=1, tokens_per_second=40))
    assert [worker_in(pool, name).speed.free for name in ("busy", "calm")] == [1, 1]


def test_a_declared_speed_explains_a_slow_pace() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("b"), found("small", speed=0.1))
    report_for(pool, clock, 6, a=50.0, b=50.0, small=5.0)
    assert worker_in(pool, "small").speed.free == pytest.approx(0.1)


def test_a_restarted_worker_has_no_pace_yet() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("slow"))
    report_for(pool, clock, 10, a=50.0, slow=5.0)
    assert worker_in(pool, "slow").speed.free < 0.2
    pool.put(found("slow", generation=2))
    assert worker_in(pool, "slow").speed.free == 1.0


def test_a_worker_that_was_down_has_no_pace_yet() -> None:
    clock = Clock()
    pool = pool_of(clock, found("a"), found("away"))
    report_for(pool, clock, 3, a=50.0, away=50.0)
    pool.mark_down("away")
    report_for(pool, clock, 12, a=50.0)
    pool.report("away", LoadReport(running=5))
    assert worker_in(pool, "away").speed.pace.value(clock()) is None
    report_for(pool, clock, 1, a=50.0)
    assert worker_in(pool, "away").speed.free == 1.0

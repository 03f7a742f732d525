"""Worker health: suspect after a lost connection, breaker after bad responses, penalties."""

import pytest

from vllama_pool.router.balance.health import MAX_PENALTIES, PENALTY_DURATION, PENALTY_FACTOR, WorkerHealth
from vllama_pool.router.errors import AttemptFailed, Busy, Faulty, Lost, ModelGone, Refused, Unable, Unavailable


def test_fifty_streams_that_break_together_count_as_one_lost_connection() -> None:
    health = WorkerHealth()
    for _ in range(50):
        health.record_failure(Lost("reset"), sent=0.0, now=10.0)
    assert health.link.openings == 1
    assert health.record_beat()
    assert health.is_healthy(10.1)
    health.record_failure(Lost("the same event, reported late"), sent=0.0, now=10.2)
    assert health.is_healthy(10.3)


def test_a_lost_connection_makes_a_worker_suspect_and_one_beat_clears_it_once() -> None:
    health = WorkerHealth()
    health.record_failure(Lost("refused"), sent=0.0, now=0.0)
    assert health.is_suspect(0.1)
    assert health.describe(0.1) == "suspect"
    assert health.record_beat()
    assert health.is_healthy(0.2)

    health.record_failure(Lost("refused"), sent=0.3, now=0.3)
    assert not health.record_beat()
    assert not health.is_healthy(6.2)
    assert health.is_healthy(6.3)


def test_a_beat_clears_a_suspect_worker_again_only_after_a_minute_of_calm() -> None:
    health = WorkerHealth()
    health.record_failure(Lost("refused"), sent=0.0, now=0.0)
    health.record_beat()
    health.record_success(sent=1.0)
    health.record_failure(Lost("refused"), sent=2.0, now=2.0)
    assert not health.record_beat()
    health.record_success(sent=8.0)
    health.record_failure(Lost("refused"), sent=70.0, now=70.0)
    assert health.record_beat()


def test_beats_do_not_clear_a_worker_that_says_that_its_engine_is_dead() -> None:
    health, failure = WorkerHealth(), Lost("EngineCore encountered an issue", status=500)
    failure.engine_dead = True
    health.record_failure(failure, sent=0.0, now=0.0)
    assert not health.record_beat()
    assert health.is_suspect(2.9)
    assert health.is_healthy(3.0)


@pytest.mark.parametrize("end", ["answer", "restart"])
def test_a_silent_worker_is_out_until_an_answer_or_a_restart_whatever_its_beats_say(end: str) -> None:
    health = WorkerHealth()
    health.silent = True
    assert not health.record_beat()
    assert (health.is_healthy(99.0), health.is_suspect(99.0), health.describe(99.0)) == (False, True, "silent")
    assert not health.is_closed
    assert not health.is_clean
    if end == "answer":
        assert health.record_success(5.0)
    else:
        health.reset(5.0)
    assert health.is_healthy(99.0)


def test_a_suspect_worker_gets_one_probe_after_three_seconds() -> None:
    health = WorkerHealth()
    health.record_failure(Lost("refused"), sent=0.0, now=0.0)
    assert not health.is_healthy(2.9)
    assert health.is_healthy(3.0)
    assert health.acquire_probe(3.0)
    assert not health.is_healthy(3.1)
    assert health.record_success(sent=3.0)
    assert health.is_healthy(3.2)


@pytest.mark.parametrize("kind", [Unavailable, Faulty])
def test_bad_responses_open_the_breaker_and_beats_do_not_close_it(kind: type[Unavailable | Faulty]) -> None:
    health = WorkerHealth()
    for second in range(5):
        health.record_failure(kind("no"), sent=second, now=second)
    assert not health.record_beat()
    assert not health.is_healthy(5)
    assert not health.is_suspect(5)
    assert health.describe(5) == "open"


@pytest.mark.parametrize("kind", [Busy, ModelGone, Refused, Unable])
def test_a_worker_that_is_busy_or_cannot_do_what_is_asked_is_healthy(kind: type[AttemptFailed]) -> None:
    health = WorkerHealth()
    for second in range(20):
        health.record_failure(kind("no"), sent=second, now=second)
    assert health.is_healthy(20)


def test_a_refused_probe_closes_the_breaker_and_a_busy_probe_does_not() -> None:
    health = WorkerHealth()
    for _ in range(5):
        health.record_failure(Faulty("no"), sent=0.0, now=0.0)
    health.acquire_probe(5.0)
    health.record_failure(Busy("full"), sent=5.0, now=5.1)
    assert health.describe(5.2) == "half-open"
    assert health.is_healthy(5.2)
    health.acquire_probe(5.2)
    health.record_failure(Refused("bad request"), sent=5.2, now=5.3)
    assert health.describe(5.4) == "closed"


def test_any_response_clears_a_suspect_worker() -> None:
    health = WorkerHealth()
    health.record_failure(Lost("refused"), sent=0.0, now=0.0)
    health.record_failure(Faulty("boom"), sent=3.0, now=3.1)
    assert not health.is_suspect(3.2)


def test_bad_responses_multiply_the_penalty_up_to_a_limit() -> None:
    health = WorkerHealth()
    penalties = [health.penalty(0)]
    for _ in range(4):
        health.record_failure(Faulty("no"), sent=0.0, now=0.0)
        penalties.append(health.penalty(0))
    expected = [PENALTY_FACTOR**count for count in (0, 1, 2, 3)]
    assert penalties == [*expected, PENALTY_FACTOR**MAX_PENALTIES]


def test_a_penalty_ends_after_its_duration_a_success_or_an_open_breaker() -> None:
    for end in ("duration", "success", "open"):
        health = WorkerHealth()
        health.record_failure(Faulty("no"), sent=0.0, now=0.0)
        assert health.penalty(PENALTY_DURATION - 0.1) == PENALTY_FACTOR
        if end == "success":
            health.record_success(sent=1.0)
        while end == "open" and not health.breaker.is_open:
            health.record_failure(Faulty("no"), sent=1.0, now=1.0)
        assert health.penalty(PENALTY_DURATION if end == "duration" else 1.0) == 1.0


def test_a_lost_probe_does_not_block_the_breakers_next_probe() -> None:
    health = WorkerHealth()
    for _ in range(5):
        health.record_failure(Faulty("no"), sent=0.0, now=0.0)
    assert health.acquire_probe(5.0)
    health.record_failure(Lost("reset"), sent=5.0, now=5.1)
    assert not health.is_healthy(5.2)
    assert health.is_healthy(8.1)


def test_reset_forgets_lost_connections_and_bad_responses() -> None:
    health = WorkerHealth()
    health.record_failure(Lost("refused"), sent=0.0, now=0.0)
    for _ in range(5):
        health.record_failure(Faulty("no"), sent=3.0, now=3.0)
    health.reset(4.0)
    assert health.is_healthy(4.0)
    assert health.describe(4.0) == "closed"

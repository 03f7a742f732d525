from __future__ import annotations

from vllama_pool.workers.process.backoff import Backoff, wait_exponential, wait_random_exponential


def test_pauses_double_up_to_the_maximum() -> None:
    backoff = Backoff(wait_exponential(multiplier=1, max=60))
    assert [backoff.pause() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_ten_thousand_failures_in_a_row_still_pause_for_the_maximum() -> None:
    backoff = Backoff(wait_exponential(multiplier=1, max=60))
    assert {backoff.pause() for _ in range(10_000)} >= {60}
    assert backoff.pause() == 60


def test_a_long_success_makes_the_next_failure_the_first_one() -> None:
    backoff = Backoff(wait_exponential(multiplier=1, max=60), settled=300)
    for _ in range(5):
        backoff.pause(299)
    assert backoff.pause(299) == 32
    assert backoff.pause(300) == 1
    assert backoff.pause() == 2


def test_reset_makes_the_next_failure_the_first_one() -> None:
    backoff = Backoff(wait_exponential(multiplier=1, max=60))
    backoff.pause()
    backoff.reset()
    assert backoff.failures == 0
    assert backoff.pause() == 1


def test_random_pauses_stay_within_their_bounds() -> None:
    backoff = Backoff(wait_random_exponential(multiplier=0.1, min=0.1, max=1.0))
    pauses = [backoff.pause() for _ in range(50)]
    assert all(0.1 <= pause <= 1.0 for pause in pauses)
    assert max(pauses) > 0.2

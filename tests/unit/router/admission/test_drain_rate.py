"""Retry-After by the rate at which requests end."""

import pytest

from vllama_pool.router.admission.drain_rate import DrainRate


class Ended:
    count = 0

    def __call__(self) -> int:
        return self.count


@pytest.mark.parametrize(("per_second", "waiting", "seconds"), [(10, 99, 10), (10, 0, 1), (1, 500, 60), (1000, 5, 1)])
def test_retry_after_is_the_time_in_which_those_that_wait_get_their_turn(
    per_second: int, waiting: int, seconds: int
) -> None:
    ended = Ended()
    rate = DrainRate(ended)
    for now in range(100, 112):
        rate.look(float(now))
        ended.count += per_second
    assert rate.retry_after(waiting, 112.0) == seconds


def test_an_unknown_rate_asks_for_the_shortest_pause() -> None:
    assert DrainRate(Ended()).retry_after(512, 7.0) == 1


def test_the_rate_follows_a_change_within_two_windows() -> None:
    ended = Ended()
    rate = DrainRate(ended)
    for now in range(40):
        rate.look(float(now))
        ended.count += 100 if now < 20 else 1
    assert rate.look(40.0) == pytest.approx(1.0)


def test_idle_times_do_not_count() -> None:
    ended = Ended()
    rate = DrainRate(ended)
    rate.look(0.0)
    assert rate.look(1000.0) == 0.0
    ended.count += 10
    assert rate.look(1001.0) == 10.0

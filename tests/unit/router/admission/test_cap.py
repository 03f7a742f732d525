"""The limit on the requests in progress of an API key or a team."""

from __future__ import annotations

import pytest

from tests.support.balance import Clock
from vllama_pool.router.admission.cap import Cap
from vllama_pool.router.errors import TooManyRequests


def cap(limit: int | None, clock: Clock | None = None) -> Cap:
    made = Cap("the team 'blue'", clock or Clock())
    made.set_limit(limit, limit)
    return made


def test_a_request_over_the_limit_is_refused_at_once_with_the_cure() -> None:
    blue = cap(2)
    tickets = [blue.enter(), blue.enter()]
    with pytest.raises(TooManyRequests) as raised:
        blue.enter()
    error = raised.value
    assert error.text == "too many requests at once: the team 'blue' may have 2 in progress; wait until one ends"
    assert (error.status, error.retry_after, error.code) == (429, 1, "rate_limit_exceeded")
    tickets[0].end()
    assert blue.enter().holds


def test_retry_after_is_about_the_time_until_a_place_is_free() -> None:
    clock = Clock()
    blue = cap(2, clock)
    ticket = blue.enter()
    clock.now += 30
    ticket.end()
    blue.enter(), blue.enter()
    with pytest.raises(TooManyRequests) as raised:
        blue.enter()
    assert raised.value.retry_after == 15


def test_without_a_limit_nothing_is_refused() -> None:
    free = cap(None)
    assert all(free.enter().holds for _ in range(100))

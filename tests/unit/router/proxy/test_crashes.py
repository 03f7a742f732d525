"""The crashes of engines that a request tells the poison guard of."""

from __future__ import annotations

import pytest

from tests.support.forwarding import SERVED, Fleet
from tests.support.lost_answers import (
    CUT,
    LOST,
    ONE_TOKEN,
    Guard,
    errors_of,
    fleet_of,
    rest,
)


@pytest.mark.parametrize(("size", "left", "learns"), [(1 << 20, 0, 1), ((1 << 20) + 1, 1 << 20, 0), (100, 1 << 20, 1)])
async def test_a_large_request_is_kept_for_the_guard_within_a_limit(size: int, left: int, learns: int) -> None:
    guard = Guard()
    fleet = fleet_of(guard, a=[ONE_TOKEN])
    in_flight = fleet.begin(size=size)
    await in_flight.run()
    assert guard.kept.take(left)
    assert not guard.kept.take(1)
    guard.kept.give_back(left)
    in_flight.close()
    in_flight.close()
    assert guard.answered == learns
    assert guard.kept.take(1 << 20), "all is given back"
    assert not guard.kept.take(1)


async def test_the_guard_learns_of_each_worker_lost_and_not_of_an_answer_that_others_completed() -> None:
    guard = Guard()
    await fleet_of(guard, a=[CUT], b=rest(LOST), c=rest()).answer()
    assert (guard.lost, guard.answered) == (["a", "b"], 0)


async def test_the_guard_learns_of_a_lost_answer_that_nobody_continues_once() -> None:
    guard = Guard()
    fleet = Fleet(models={"a": SERVED}, poison=guard, a=[CUT])  # the model's files are unknown
    assert len(errors_of(await fleet.answer())) == 1
    assert (guard.lost, guard.answered) == (["a"], 0)


async def test_the_guard_learns_once_of_each_worker_that_was_lost_with_an_answer() -> None:
    guard = Guard()
    fleet = fleet_of(guard, a=[CUT], b=rest(LOST), c=rest(LOST))
    assert len(errors_of(await fleet.answer())) == 1
    assert (guard.lost, guard.answered) == (["a", "b", "c"], 0)


async def test_the_guard_learns_of_an_answer_by_one_engine() -> None:
    guard = Guard()
    await fleet_of(guard, a=[ONE_TOKEN]).answer()
    assert (guard.lost, guard.answered) == ([], 1)

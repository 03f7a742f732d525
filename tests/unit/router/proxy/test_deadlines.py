"""The end of requests whose whole time is over."""

from __future__ import annotations

import asyncio

from tests.support.until import auntil
from vllama_pool.router.proxy.deadlines import Deadlines


class Request:
    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.expired = 0

    def expire(self) -> None:
        self.expired += 1


def test_a_request_expires_once_when_its_time_is_over() -> None:
    deadlines, early, late = Deadlines(), Request(10.0), Request(20.0)
    deadlines.watch(early)
    deadlines.watch(late)
    deadlines.check(9.9)
    assert (early.expired, late.expired) == (0, 0)
    for now in (10.0, 11.0):
        deadlines.check(now)
    assert (early.expired, late.expired) == (1, 0)
    assert repr(deadlines) == "<Deadlines 1 watched>"


def test_a_request_that_has_ended_does_not_expire() -> None:
    deadlines, request = Deadlines(), Request(10.0)
    deadlines.watch(request)
    deadlines.unwatch(request)
    deadlines.unwatch(request)
    deadlines.check(11.0)
    assert request.expired == 0


async def test_requests_expire_without_an_event() -> None:
    now, request = 0.0, Request(10.0)
    deadlines = Deadlines(interval=0.001)
    deadlines.watch(request)
    running = asyncio.create_task(deadlines.run(lambda: now))
    now = 10.0
    await auntil(lambda: request.expired == 1)
    running.cancel()

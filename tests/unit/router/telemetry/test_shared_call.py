"""Calls that several callers share."""

from __future__ import annotations

import asyncio

from vllama_pool.router.telemetry.shared_call import SharedCall


class Slow:
    """Calls that return their number once the test lets them."""

    def __init__(self) -> None:
        self.begun = 0
        self.may_end = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        number = self.begun
        await self.may_end.wait()
        return number


async def test_callers_during_a_call_share_the_next_one() -> None:
    slow = Slow()
    shared = SharedCall(slow)
    first = asyncio.create_task(shared())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert slow.begun == 1
    later = [asyncio.create_task(shared()) for _ in range(50)]
    await asyncio.sleep(0)
    assert slow.begun == 1
    slow.may_end.set()
    assert await first == 1
    assert set(await asyncio.gather(*later)) == {2}
    assert await shared() == 3


async def test_a_caller_that_leaves_does_not_end_the_call_of_the_others() -> None:
    slow = Slow()
    shared = SharedCall(slow)
    leaving, staying = asyncio.create_task(shared()), asyncio.create_task(shared())
    await asyncio.sleep(0)
    leaving.cancel()
    slow.may_end.set()
    assert await staying == 1
    assert leaving.cancelled()

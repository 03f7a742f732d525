"""Starting a coroutine without a task, and finishing it in one."""

from __future__ import annotations

import asyncio

import pytest

from vllama_pool.router.proxy.eager_start import Suspended, resume, start_eagerly


async def test_a_coroutine_that_does_not_suspend_runs_to_its_end() -> None:
    ran: list[str] = []

    async def work() -> None:
        ran.append("done")

    assert start_eagerly(work()) is None
    assert ran == ["done"]


async def test_an_exception_before_the_first_suspension_is_raised() -> None:
    async def work() -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        start_eagerly(work())


class Paused:
    """A coroutine that awaits `first` and then `second`, started eagerly."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.first: asyncio.Future[str] = loop.create_future()
        self.second: asyncio.Future[str] = loop.create_future()
        self.log: list[str] = []
        suspended = start_eagerly(self._work())
        assert suspended is not None
        self.suspended: Suspended = suspended

    async def _work(self) -> None:
        try:
            self.log.append(await self.first)
            self.log.append(await self.second)
        finally:
            self.log.append("finally")

    async def finish(self) -> None:
        await resume(self.suspended)


async def test_resume_passes_the_results_of_every_awaited_future() -> None:
    paused = Paused()
    assert paused.suspended.awaited is paused.first
    task = asyncio.create_task(paused.finish())
    paused.first.set_result("one")
    paused.second.set_result("two")
    await task
    assert paused.log == ["one", "two", "finally"]


async def test_resume_raises_the_exception_of_an_awaited_future() -> None:
    paused = Paused()
    paused.first.set_exception(OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        await paused.finish()
    assert paused.log == ["finally"]


async def test_cancelling_resume_cancels_the_coroutine() -> None:
    paused = Paused()
    task = asyncio.create_task(paused.finish())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert paused.log == ["finally"]


async def test_a_coroutine_may_end_by_handling_the_exception_thrown_into_it() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        try:
            await future
        except OSError:
            return

    suspended = start_eagerly(work())
    assert suspended is not None
    future.set_exception(OSError("gone"))

    async def finish() -> None:
        await resume(suspended)

    await asyncio.create_task(finish())

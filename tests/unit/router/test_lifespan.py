"""The lifespan of a router process."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator

import pytest

from tests.support.until import auntil
from vllama_pool.router.lifespan import background


@pytest.fixture
def sigterms() -> Iterator[list[int]]:
    """SIGTERM signals that this process receives during the test."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    yield received
    signal.signal(signal.SIGTERM, before)


async def test_background_work_is_cancelled_when_its_context_ends(sigterms: list[int]) -> None:
    cancelled: list[str] = []

    async def endless(name: str) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.append(name)
            raise

    async with background(endless("a"), endless("b")):
        await asyncio.sleep(0)
    assert sorted(cancelled) == ["a", "b"]
    assert sigterms == []


async def test_failed_background_work_is_logged_and_ends_the_process(
    sigterms: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    async def failing() -> None:
        raise RuntimeError("a bug")

    async with background(failing()):
        await auntil(lambda: bool(sigterms))
    assert sigterms == [signal.SIGTERM]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "a bug"

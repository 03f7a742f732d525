"""Conditions that a row waits for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests.support.until import INTERVAL, auntil

Condition = Callable[[], bool | Awaitable[bool]]


async def wait_until(condition: Condition, timeout: float, what: str, *, interval: float = INTERVAL) -> None:
    """Poll a condition, which may be a coroutine function. Raises AssertionError after `timeout` seconds."""
    await auntil(condition, timeout, what, interval=interval)

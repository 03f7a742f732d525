"""Waiting in tests: poll a condition, with a bound, and say what was seen when it never came true."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

T = TypeVar("T")

INTERVAL = 0.02
"""Seconds between two looks."""


def until(cond: Callable[[], T], timeout: float = 5.0, what: str = "", *, interval: float = INTERVAL) -> T:
    """Call `cond` until it returns something true, and return that.

    `timeout` is in seconds; `cond` is looked at least once, and once more at the very end. Raises
    AssertionError with the description and the last value. What `cond` raises is not caught.
    """
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() >= deadline
        value = cond()
        if value:
            return value
        if late:
            raise AssertionError(_complaint(cond, timeout, what, value))
        time.sleep(interval)


async def auntil(
    cond: Callable[[], T | Awaitable[T]], timeout: float = 5.0, what: str = "", *, interval: float = INTERVAL
) -> T:
    """As `until`, for a condition that may be a coroutine function; other tasks run between two looks."""
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() >= deadline
        value = cond()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return cast(T, value)
        if late:
            raise AssertionError(_complaint(cond, timeout, what, value))
        await asyncio.sleep(interval)


def _complaint(cond: Callable[[], object], timeout: float, what: str, value: object) -> str:
    name = what or getattr(cond, "__qualname__", repr(cond))
    return f"not within {timeout:g} s: {name}; last value: {value!r}"

"""Polls a condition with a time limit, and reports its last value if it never comes true."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

T = TypeVar("T")

INTERVAL = 0.02
"""Seconds between two calls of the condition."""
MIN_TIMEOUT = 40.0
"""Seconds that every condition gets at least: a busy machine delays each step of a test by seconds."""


def until(cond: Callable[[], T], timeout: float = 5.0, what: str = "", *, interval: float = INTERVAL) -> T:
    """Call `cond` until its value is true, and return the value.

    Calls `cond` at least once, and once more after `timeout` seconds, MIN_TIMEOUT at least. Raises AssertionError with
    `what` and the last value. Exceptions of `cond` propagate. A test that promises a time measures it itself.
    """
    timeout = max(timeout, MIN_TIMEOUT)
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() >= deadline
        value = cond()
        if value:
            return value
        if late:
            raise AssertionError(_message(cond, timeout, what, value))
        time.sleep(interval)


async def auntil(
    cond: Callable[[], T | Awaitable[T]], timeout: float = 5.0, what: str = "", *, interval: float = INTERVAL
) -> T:
    """Like `until`, for conditions that may be coroutine functions; other tasks run between calls."""
    timeout = max(timeout, MIN_TIMEOUT)
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() >= deadline
        value = cond()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return cast(T, value)
        if late:
            raise AssertionError(_message(cond, timeout, what, value))
        await asyncio.sleep(interval)


def _message(cond: Callable[[], object], timeout: float, what: str, value: object) -> str:
    name = what or getattr(cond, "__qualname__", repr(cond))
    return f"not within {timeout:g} s: {name}; last value: {value!r}"

"""Starts a coroutine eagerly: runs it without a task until it first suspends.

uvicorn's `send` finishes without suspending unless its flow control is paused, so calling it from the event loop's read
callback costs no task switch. A server whose `send` needs a running task cannot be called this way.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Suspended:
    """A suspended coroutine, and the future that it awaits."""

    coroutine: Coroutine[Any, Any, None]
    awaited: Any


def start_eagerly(coroutine: Coroutine[Any, Any, None]) -> Suspended | None:
    """Run to the end (None) or to the first suspension. Raises what the coroutine raises."""
    try:
        awaited = coroutine.send(None)
    except StopIteration:
        return None
    return Suspended(coroutine, awaited)


@types.coroutine
def resume(suspended: Suspended) -> Generator[Any, Any, None]:
    """Finish a suspended coroutine; await it from a task. Cancellation reaches the coroutine."""
    awaited = suspended.awaited
    while True:
        try:
            value = yield awaited
        except BaseException as error:  # noqa: BLE001 - thrown into the coroutine
            try:
                awaited = suspended.coroutine.throw(error)
            except StopIteration:
                return
        else:
            try:
                awaited = suspended.coroutine.send(value)
            except StopIteration:
                return

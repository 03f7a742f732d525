"""Runs a coroutine without a task until it first suspends.

uvicorn's `send` finishes without suspending unless its flow control is paused, so calling it from the event
loop's read callback costs no task switch. Where it does suspend, `resume` finishes it inside a task. A server
whose `send` needs a running task cannot be driven this way; uvicorn's can.
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
    waits_for: Any


def step(coroutine: Coroutine[Any, Any, None]) -> Suspended | None:
    """Run to the end (None) or to the first suspension. Raises what the coroutine raises."""
    try:
        waits_for = coroutine.send(None)
    except StopIteration:
        return None
    return Suspended(coroutine, waits_for)


@types.coroutine
def resume(suspended: Suspended) -> Generator[Any, Any, None]:
    """Finish a suspended coroutine; await it from a task. Cancellation reaches the coroutine."""
    waits_for = suspended.waits_for
    while True:
        try:
            value = yield waits_for
        except BaseException as error:  # noqa: BLE001 - handed on, whatever it is
            try:
                waits_for = suspended.coroutine.throw(error)
            except StopIteration:
                return
        else:
            try:
                waits_for = suspended.coroutine.send(value)
            except StopIteration:
                return

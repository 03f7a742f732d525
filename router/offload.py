"""Runs CPU-heavy work in a thread when its input is large, so that it does not block the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

INLINE_BYTES = 256 * 1024
"""Largest input for the event loop, where it takes some 20 ms at worst."""

Args = TypeVarTuple("Args")
T = TypeVar("T")


async def offload(size: int, work: Callable[[*Args], T], *args: *Args) -> T:
    """Call `work(*args)`, in a thread if `size` bytes exceed `INLINE_BYTES`."""
    if size <= INLINE_BYTES:
        return work(*args)
    return await asyncio.to_thread(work, *args)

"""Much work is done in a thread, so that the streams of others go on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

INLINE_BYTES = 256 * 1024
"""Bytes that are worked on within the event loop: some twenty milliseconds at worst."""

Given = TypeVarTuple("Given")
T = TypeVar("T")


async def offload(size: int, work: Callable[[*Given], T], *given: *Given) -> T:
    """What `work` returns or raises. `size`: bytes of what it has to work on."""
    if size <= INLINE_BYTES:
        return work(*given)
    return await asyncio.to_thread(work, *given)

"""The lifespan of a router process: its background work, and what it closes at the end."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from vllama_pool.router.telemetry.report_exchange import ReportExchange
from vllama_pool.router.telemetry.request_log import RequestLog
from vllama_pool.router.wiring import Sources

_log = logging.getLogger(__name__)

REGISTRY_WAIT = 2.0
"""Seconds to wait for the first registry snapshot at the start."""

Lifespan = Callable[[object], AbstractAsyncContextManager[None]]
"""Called with the application."""
Loop = Callable[[], Coroutine[Any, Any, None]]
"""Runs until it is cancelled."""
Close = Callable[[], Awaitable[object]]


def make_lifespan(
    sources: Sources,
    exchange: ReportExchange,
    request_log: RequestLog,
    loops: Sequence[Loop],
    closing: Sequence[Close],
) -> Lifespan:
    """`closing` is called in order when the loops have ended; the sources and the request log close last."""

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncGenerator[None, None]:
        writing = asyncio.get_running_loop().create_task(request_log.run(), name="request log")
        try:
            async with exchange.serving(), background(*sources.loops(), *(loop() for loop in loops)):
                await sources.discovery.wait_first(REGISTRY_WAIT)
                yield
        finally:
            for close in closing:
                await close()
            await sources.aclose()
            request_log.stop()
            await writing

    return lifespan


@asynccontextmanager
async def background(*work: Coroutine[Any, Any, None]) -> AsyncGenerator[None, None]:
    """Run endless coroutines within the context. If one fails, this process drains and exits, and the supervisor
    restarts it."""
    tasks = [asyncio.get_running_loop().create_task(coroutine) for coroutine in work]
    for task in tasks:
        task.add_done_callback(_end_on_failure)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # `_end_on_failure` has logged failures


def _end_on_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a background task failed; this router process ends", exc_info=error)
        signal.raise_signal(signal.SIGTERM)

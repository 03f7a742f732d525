"""One attempt on a worker: pending until the client's response may begin, then a response with an owner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vllama_pool.router.balance.budget import RetryBudget
from vllama_pool.router.balance.lease import Lease, Outcome
from vllama_pool.router.errors import Lost
from vllama_pool.router.protocol.operation import StreamTranslator
from vllama_pool.router.protocol.vllm.errors import classify_stream_failure
from vllama_pool.router.upstream.interface import Response

MAX_INLINE_FINISH = 64 * 1024
"""Bytes of a response whose `finish` runs in the event loop, in some milliseconds."""


class WorkerResponse:
    """A worker's response whose first content has arrived. Its owner calls `close` on every path; it is idempotent."""

    def __init__(self, lease: Lease, response: Response, translator: StreamTranslator, first_bytes: bytes) -> None:
        self.budget: RetryBudget | None = None
        """Counts the request as in flight until `close`."""
        self.response = response
        self.translator = translator
        self.first_bytes = first_bytes
        """The translator's output so far."""
        self._lease = lease

    @property
    def worker_unresponsive(self) -> bool:
        return self._lease.worker.unresponsive

    def close(self, outcome: Outcome) -> None:
        self.response.close()
        self._lease.release(outcome)
        if self.budget is not None:
            self.budget.end_request()
            self.budget = None


class PendingAttempt:
    """An attempt before the client's response may begin; `abort` expires its `deadline`."""

    waits_for_client = False

    def __init__(self, lease: Lease, deadline: asyncio.Timeout) -> None:
        self.lease = lease
        self._deadline = deadline
        self.last_progress = asyncio.get_running_loop().time()
        self.begun = False
        self.abort_reason = ""

    def record_content(self) -> None:
        self.begun = True
        self.record_progress()

    def record_progress(self) -> None:
        """Record progress without content, such as a preflight response."""
        self.last_progress = asyncio.get_running_loop().time()

    @property
    def worker_unresponsive(self) -> bool:
        return self.lease.worker.unresponsive

    def abort(self, text: str) -> None:
        if not self.abort_reason:
            self.abort_reason = text
            self._deadline.reschedule(asyncio.get_running_loop().time())


async def read_first_content(response: Response, translator: StreamTranslator, on_content: Callable[[], None]) -> bytes:
    """Read until the client's response may begin, and return its first bytes.

    Calls `on_content` for each chunk from the first content on. Raises AttemptFailed and TransportError.
    """
    first_bytes = bytearray()
    size = 0
    while not translator.ready:
        chunk = await response.read()
        size += len(chunk)
        if not chunk:
            # Finishing a large response takes long enough to stall other streams.
            end = translator.finish() if size <= MAX_INLINE_FINISH else await asyncio.to_thread(translator.finish)
            if translator.failure is not None:
                raise classify_stream_failure(translator.failure)
            if not translator.done:
                raise Lost("the worker's answer ended before it was whole", status=502)
            return bytes(first_bytes) + end if first_bytes else end
        first_bytes += translator.feed(chunk)
        if translator.begun:
            on_content()
        if translator.failure is not None and not translator.ready:
            raise classify_stream_failure(translator.failure)
    return bytes(first_bytes)

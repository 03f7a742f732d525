"""A worker's answer: waited for until the client's may begin, and owned from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vllama_pool.router.balance.budget import Budget
from vllama_pool.router.balance.lease import Lease, Outcome
from vllama_pool.router.errors import Lost
from vllama_pool.router.protocol.operation import StreamTranslator
from vllama_pool.router.protocol.vllm.errors import of_stream
from vllama_pool.router.upstream.interface import Response

FINISHED_AT_ONCE = 64 * 1024
"""Bytes of an answer whose end is worked out within the event loop: some milliseconds at worst."""


class WorkerResponse:
    """A worker's answer that may begin. Its owner calls `close` on every path; further calls do nothing."""

    def __init__(self, lease: Lease, response: Response, translator: StreamTranslator, first: bytes) -> None:
        self.budget: Budget | None = None
        """Left when the answer is closed: the request is in flight until then."""
        self.response = response
        self.translator = translator
        self.first = first
        """What the client gets for what has been read so far."""
        self._lease = lease

    @property
    def worker_unresponsive(self) -> bool:
        """True if the worker is down or sleeps."""
        return self._lease.worker.unresponsive

    def close(self, outcome: Outcome) -> None:
        """Give the connection and the place in the worker back."""
        self.response.close()
        self._lease.release(outcome)
        if self.budget is not None:
            self.budget.leave()
            self.budget = None


class PendingAttempt:
    """An attempt until the client's answer may begin; the stall watch may end it.

    That is its first content event, or, where nothing is streamed to the client, the answer's end.
    """

    excused = False

    def __init__(self, lease: Lease, allowed: asyncio.Timeout) -> None:
        self.lease = lease
        self._allowed = allowed
        self.last_progress = asyncio.get_running_loop().time()
        self.begun = False
        self.reason = ""

    def content(self) -> None:
        """Content has come, though not enough for the client's answer to begin."""
        self.begun = True
        self.heard()

    def heard(self) -> None:
        """The worker has said something, though nothing of the answer."""
        self.last_progress = asyncio.get_running_loop().time()

    @property
    def worker_unresponsive(self) -> bool:
        return self.lease.worker.unresponsive

    def give_up(self, text: str) -> None:
        if not self.reason:
            self.reason = text
            self._allowed.reschedule(asyncio.get_running_loop().time())


async def first_content(response: Response, translator: StreamTranslator, begun: Callable[[], None]) -> bytes:
    """Read until the client's answer may begin. Returns what the client gets for it. `begun` is called for all that
    comes from the first content on. Raises AttemptFailed and TransportError."""
    first = bytearray()
    size = 0
    while not translator.ready:
        chunk = await response.read()
        size += len(chunk)
        if not chunk:
            # What was kept until now may be much work, and the streams of others must go on meanwhile.
            end = translator.finish() if size <= FINISHED_AT_ONCE else await asyncio.to_thread(translator.finish)
            if translator.failure is not None:
                raise of_stream(translator.failure)
            if not translator.done:
                raise Lost("the worker's answer ended before it was whole", status=502)
            return bytes(first) + end if first else end
        first += translator.feed(chunk)
        if translator.begun:
            begun()
        if translator.failure is not None and not translator.ready:
            raise of_stream(translator.failure)
    return bytes(first)

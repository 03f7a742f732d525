"""A request's places in admission queues."""

from __future__ import annotations

import asyncio

from vllama_pool.router.admission.queue import AdmissionQueue, Ticket
from vllama_pool.router.admission.tenant import ANYBODY, Tenant


class Places:
    """Owns one request's tickets. `end` frees them on every path; it is idempotent."""

    __slots__ = ("_tickets",)

    def __init__(self) -> None:
        self._tickets: list[Ticket] = []

    async def take(self, queue: AdmissionQueue, tenant: Tenant = ANYBODY) -> None:
        """Wait for a place. Raises ServerBusy if the queue is full, or its longest wait is over.

        Take the places of several queues one after the other, always in the same order, so that no request holds what
        another one waits for while it waits itself.
        """
        ticket = queue.enter(tenant)
        self._tickets.append(ticket)
        if not ticket.holds:
            await _turn(ticket, queue.limits.wait)
            if not ticket.holds:
                ticket.end()
                raise queue.busy()

    def stop_waiting(self) -> None:
        """Leave the queues in which no place is held yet. Idempotent."""
        for ticket in self._tickets:
            if not ticket.holds:
                ticket.end()

    def end(self) -> None:
        for ticket in self._tickets:
            ticket.end()


async def _turn(ticket: Ticket, longest: float | None) -> None:
    """Wait until the ticket's turn, or for `longest` seconds."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if not over.done():
            over.set_result(None)

    ticket.on_turn = stop
    timer = loop.call_later(longest, stop) if longest is not None else None
    try:
        await over
    finally:
        ticket.on_turn = None
        if timer is not None:
            timer.cancel()

"""A request and the crashes of its engines: what it tells the poison guard, and what it keeps for that."""

from __future__ import annotations

from vllama_pool.router.poison.guard import PoisonGuard
from vllama_pool.router.proxy.attempt import Attempt
from vllama_pool.router.proxy.forward_request import ForwardRequest
from vllama_pool.router.proxy.recovery import Recovery
from vllama_pool.router.proxy.relay import Ending

SMALL_REQUEST = 1 << 14
"""Bytes of a body up to which its request is kept while it is answered, in case that its engine crashes. Larger ones
are kept within the poison guard's limit."""


def keep_request(poison: PoisonGuard | None, call: ForwardRequest) -> int:
    """Keep a request that is not small until its answer ends, unless too many bytes are kept.

    Returns the bytes that count for the guard's limit, which the caller gives back.
    """
    size = call.decision.size
    if poison is not None and poison.kept.take(size):
        return size
    call.request = None
    return 0


async def look_for_crash(poison: PoisonGuard, call: ForwardRequest, recovery: Recovery, attempt: Attempt) -> None:
    """The connection was lost: did the engine die by itself? Raises Poison if that is the second one."""
    worker, sent, size = attempt.replica.worker, attempt.lease.sent, call.decision.size
    crash = await poison.met_crash(worker, sent, call.operation.name, call.request, size, recovery.crashes)
    if crash is not None:
        recovery.note_crash(crash)


def report_ending(poison: PoisonGuard, call: ForwardRequest, attempt: Attempt, *, interrupted: bool) -> None:
    """Tell the guard how an answer ended that may have crashed its engine. `interrupted`: its loss is told already."""
    request, record, name, size = call.request, call.decision.record, call.operation.name, call.decision.size
    if request is None:
        return
    if record.outcome in (Ending.COMPLETE, Ending.WHOLE):
        if not record.resumed:  # else another engine got the tokens, not the request
            poison.completed(name, request, size)
    elif record.outcome == Ending.LOST and not interrupted:
        poison.lost_begun(attempt.replica.worker, attempt.lease.sent, name, request, size)

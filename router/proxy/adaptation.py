"""Adapts a refused request to a form that its worker may accept."""

from __future__ import annotations

from vllama_pool.router.balance.worker import Replica
from vllama_pool.router.errors import ContextTooLong, Faulty, Refused
from vllama_pool.router.offload import offload
from vllama_pool.router.protocol.operation import NextStep
from vllama_pool.router.proxy.requester import Requester

MAX_ADAPTATIONS = 5
"""Adapted requests per attempt: fewer stop strings, fewer tokens, a shorter prompt, joined messages, a closed turn."""


async def adapted(request: Requester, replica: Replica, refusals: list[Refused | Faulty]) -> NextStep:
    """Return a request that the worker may accept. Raises the first refusal if there is none, and the latest one if
    the request goes to a larger context instead."""
    call = request.call
    adapt = call.operation.adapt
    latest = refusals[-1]
    if isinstance(latest, ContextTooLong) and request.moves_for(latest, replica):
        raise latest
    repeated = any(latest.text == earlier.text for earlier in refusals[:-1])
    step = None
    if adapt is not None and not repeated and len(refusals) <= MAX_ADAPTATIONS:
        model, defaults = replica.model, call.defaults
        step = await offload(call.decision.size, adapt, call.request, model, defaults, *refusals)
    if step is None:
        raise refusals[0]
    return step

"""The questions that come before a request: each is put to the same worker, until it is known what to send."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from vllama_pool.router.errors import Faulty, Refused
from vllama_pool.router.offload import offload
from vllama_pool.router.protocol.operation import DirectResponse, NextStep, PreflightRequest, UpstreamRequest
from vllama_pool.router.proxy.refusals import refused_by
from vllama_pool.router.upstream.interface import Response

MOST_QUESTIONS = 40
"""For one attempt: halving a conversation of a thousand billion turns takes no more."""

ANSWER_LIMIT = 32 * 2**20
"""Bytes of an answer. The largest that vLLM gives carries a prompt's tokens."""

FILTERED = (403, 405)
"""How proxies answer for a route that they do not let through; vLLM itself never does."""

Send = Callable[[str, bytes], Awaitable[Response]]
"""Sends a body to a path of the worker."""


async def follow(step: NextStep, send: Send, heard: Callable[[], None], size: int) -> UpstreamRequest | DirectResponse:
    """Ask until there is something to send or to reply. `heard` is called after each answer. `size`: the bytes of the
    client's request, which the next question may hold again.

    Raises AttemptFailed, as for the request itself, and TransportError.
    """
    for _ in range(MOST_QUESTIONS):
        if not isinstance(step, PreflightRequest):
            return step
        response = await send(step.path, step.body)
        try:
            answer = await _answer(response, step.path)
        finally:
            response.close()
        heard()
        step = await offload(max(size, len(answer)), step.then, answer)
    if isinstance(step, PreflightRequest):
        raise Faulty("the worker's answers about the prompt lead nowhere", status=502)
    return step


async def _answer(response: Response, path: str) -> bytes:
    if response.status != 200:
        failure = await refused_by(response)
        # What answers requests well is not ill for a filter before its other routes. Nor is its model missing, which
        # clients would fetch then.
        if response.status in FILTERED or (isinstance(failure, Refused) and failure.status == 404):
            raise Refused(
                f"this needs vLLM's {path}, which the worker does not have: put no filter before it", status=501
            )
        raise failure
    body = bytearray()
    while chunk := await response.read():
        body += chunk
        if len(body) > ANSWER_LIMIT:
            raise Refused("the prompt is too long to be counted; shorten the prompt", status=400)
    return bytes(body)

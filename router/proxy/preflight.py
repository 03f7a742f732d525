"""Preflight requests: sent to the same worker until the request itself is known."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from vllama_pool.router.errors import Faulty, Refused
from vllama_pool.router.offload import offload
from vllama_pool.router.protocol.operation import DirectResponse, NextStep, PreflightRequest, UpstreamRequest
from vllama_pool.router.proxy.worker_errors import refused_by
from vllama_pool.router.upstream.interface import Response

MOST_QUESTIONS = 40
"""Per attempt: enough to halve a conversation of 10^12 turns."""

ANSWER_LIMIT = 32 * 2**20
"""Bytes of a preflight response. The largest ones carry a prompt's tokens."""

FILTERED = (403, 405)
"""Statuses of proxies for a blocked route; vLLM itself never sends them."""

Send = Callable[[str, bytes], Awaitable[Response]]
"""Sends a body to a path of the worker."""


async def follow(step: NextStep, send: Send, heard: Callable[[], None], size: int) -> UpstreamRequest | DirectResponse:
    """Send preflight requests until one leads to the request or to a direct response. Calls `heard` after each.
    `size`: bytes of the client's request, which the next preflight may repeat.

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
        # A proxy that blocks /tokenize must not open the breaker, and a 404 here must not reach the client as
        # "model not found".
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

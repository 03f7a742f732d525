"""Preflight requests: sent to the same worker until the request itself is known."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from vllama_pool.router.errors import Faulty, Refused
from vllama_pool.router.offload import offload
from vllama_pool.router.protocol.operation import DirectResponse, NextStep, PreflightRequest, UpstreamRequest
from vllama_pool.router.proxy.worker_errors import read_failure
from vllama_pool.router.upstream.interface import Response

MAX_PREFLIGHTS = 40
"""Per attempt: enough to halve a conversation of 10^12 turns."""

MAX_RESPONSE_BYTES = 32 * 2**20
"""The largest responses carry a prompt's tokens."""

BLOCKED_STATUSES = (403, 405)
"""Sent by proxies for a blocked route, and never by vLLM itself."""

Send = Callable[[str, bytes], Awaitable[Response]]
"""Sends a body to a path of the worker."""


async def run_preflight(
    step: NextStep, send: Send, on_response: Callable[[], None], size: int
) -> UpstreamRequest | DirectResponse:
    """Send preflight requests until one leads to the request or to a direct response.

    `size`: bytes of the client's request, which the next preflight may repeat. Raises AttemptFailed, as for the
    request itself, and TransportError.
    """
    for _ in range(MAX_PREFLIGHTS):
        if not isinstance(step, PreflightRequest):
            return step
        response = await send(step.path, step.body)
        try:
            body = await _read_body(response, step.path)
        finally:
            response.close()
        on_response()
        step = await offload(max(size, len(body)), step.then, body)
    if isinstance(step, PreflightRequest):
        raise Faulty("the worker's answers about the prompt lead nowhere", status=502)
    return step


async def _read_body(response: Response, path: str) -> bytes:
    if response.status != 200:
        failure = await read_failure(response)
        # A proxy that blocks /tokenize must not open the breaker, and a 404 here must not reach the client as
        # "model not found".
        if response.status in BLOCKED_STATUSES or (isinstance(failure, Refused) and failure.status == 404):
            raise Refused(
                f"this needs vLLM's {path}, which the worker does not have: put no filter before it", status=501
            )
        raise failure
    body = bytearray()
    while chunk := await response.read():
        body += chunk
        if len(body) > MAX_RESPONSE_BYTES:
            raise Refused("the prompt is too long to be counted; shorten the prompt", status=400)
    return bytes(body)

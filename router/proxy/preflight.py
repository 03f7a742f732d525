"""Preflight requests: sent to the same worker until the request itself is known."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from vllama_pool.router.errors import AttemptFailed, Faulty, Refused, Unable
from vllama_pool.router.offload import offload
from vllama_pool.router.protocol.operation import DirectResponse, NextStep, PreflightRequest, UpstreamRequest
from vllama_pool.router.protocol.vllm.api import INVALID_JSON
from vllama_pool.router.proxy.worker_errors import MAX_ERROR_BODY, classify_response
from vllama_pool.router.upstream.interface import TransportError

MAX_PREFLIGHTS = 40
"""Per attempt: enough to halve a conversation of 10^12 turns."""

MAX_RESPONSE_BYTES = 32 * 2**20
"""The largest responses carry a prompt's tokens."""

INVALID_ANSWER = "the worker's response to {path} is invalid; check that it runs vLLM"

BLOCKED_STATUSES = (403, 405)
"""Sent by proxies for a blocked route, and never by vLLM itself."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response as far as it was read."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Collector:
    """The sink of a preflight. Resolves `answer` once, or raises TransportError from it."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._headers: Mapping[str, str] = {}
        self._body = bytearray()

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        self._status, self._headers = status, headers

    def data(self, chunk: bytes) -> None:
        self._body += chunk
        if len(self._body) > (MAX_RESPONSE_BYTES if self._status == 200 else MAX_ERROR_BODY):
            self.eof()

    def eof(self) -> None:
        if not self.answer.done():
            self.answer.set_result(Answer(self._status, self._headers, bytes(self._body)))

    def lost(self, error: TransportError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


Ask = Callable[[str, bytes], Awaitable[Answer]]
"""Sends a body to a path of the worker."""


async def run_preflight(step: NextStep, ask: Ask, size: int) -> UpstreamRequest | DirectResponse:
    """Send preflight requests until one leads to the request or to a direct response.

    `size`: bytes of the client's request, which the next preflight may repeat. Raises AttemptFailed, as for the
    request itself, and TransportError.
    """
    for _ in range(MAX_PREFLIGHTS):
        if not isinstance(step, PreflightRequest):
            return step
        path = step.path
        answer = await ask(path, step.body)
        if answer.status != 200:
            raise _failure(answer, path)
        if len(answer.body) > MAX_RESPONSE_BYTES:
            raise Refused("the prompt is too long to be counted; shorten the prompt", status=400)
        try:
            step = await offload(max(size, len(answer.body)), step.then, answer.body)
        except INVALID_JSON:
            raise Unable(INVALID_ANSWER.format(path=path), status=501) from None
    if isinstance(step, PreflightRequest):
        raise Faulty("the worker's answers about the prompt lead nowhere", status=502)
    return step


def _failure(answer: Answer, path: str) -> AttemptFailed:
    failure = classify_response(answer.status, answer.headers, answer.body)
    # A proxy that blocks /tokenize must not open the breaker, and a 404 here must not reach the client as
    # "model not found".
    if answer.status in BLOCKED_STATUSES or (isinstance(failure, Refused) and failure.status == 404):
        return Unable(f"this needs vLLM's {path}, which the worker does not have: put no filter before it", status=501)
    return failure

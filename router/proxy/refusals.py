"""A worker's answer that is no 200: reading it, what it means, and what the client is told."""

from __future__ import annotations

from vllama_pool.router.errors import AttemptFailed, Busy, ClientError, Lost, Unavailable
from vllama_pool.router.protocol.vllm.errors import classify
from vllama_pool.router.upstream.interface import Response

ERROR_BODY_LIMIT = 256 * 1024
"""Bytes of a worker's error body that are read."""

LONGEST_WAIT = 600.0
"""Seconds that a worker can have clients wait before they come back."""


async def refused_by(response: Response) -> AttemptFailed:
    """What the worker's answer means, once its body is read. Raises TransportError."""
    body = bytearray()
    while len(body) < ERROR_BODY_LIMIT:
        chunk = await response.read()
        if not chunk:
            break
        body += chunk
    return worker_refused(response, bytes(body))


def worker_refused(response: Response, body: bytes) -> AttemptFailed:
    """What a worker's answer that is no 200 means."""
    if response.status in (401, 403):  # our key is wrong, not the client's
        return Unavailable("the worker refused the router's key; set VLLAMA_WORKER_KEY alike on both", status=502)
    failure = classify(response.status, body)
    failure.retry_after = _seconds(response.headers.get("retry-after"))
    return failure


def client_error(failure: AttemptFailed) -> ClientError:
    """What the client is told when no further attempt is made (R163, R167).

    If all that can be said is that workers were lost, there is nobody left who serves the model: 503, come back.
    """
    if isinstance(failure, Lost) and failure.status == 502:
        return ClientError(failure.text, status=503, retry_after=1)
    retry_after = None
    if isinstance(failure, Busy | Unavailable) or failure.status == 503:
        retry_after = max(1, round(failure.retry_after or 1))
    return ClientError(failure.text, status=failure.status, retry_after=retry_after)


def _seconds(header: str | None) -> float | None:
    """A Retry-After of seconds, at most LONGEST_WAIT; dates are not used by workers."""
    if header is None or not header.isascii() or not header.isdigit():
        return None
    return min(float(header), LONGEST_WAIT)

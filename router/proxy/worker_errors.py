"""Classifies a worker's error response, and maps failures to the client's error."""

from __future__ import annotations

from collections.abc import Mapping

from vllama_pool.router.errors import AttemptFailed, Busy, ClientError, Lost, Unavailable
from vllama_pool.router.protocol.vllm.errors import classify
from vllama_pool.router.upstream.interface import ConnectFailed, ResponseTimeout, TransportError

MAX_ERROR_BODY = 256 * 1024
"""Bytes read of an error body."""

MAX_RETRY_AFTER = 600.0
"""Seconds of Retry-After that are passed on."""


def classify_response(status: int, headers: Mapping[str, str], body: bytes) -> AttemptFailed:
    if status in (401, 403):  # our key is wrong, not the client's
        return Unavailable("the worker refused the router's key; set VLLAMA_WORKER_KEY alike on both", status=502)
    failure = classify(status, body)
    failure.retry_after = _seconds(headers.get("retry-after"))
    return failure


def transport_failure(error: TransportError) -> Lost:
    if isinstance(error, ResponseTimeout):
        lost = Lost(str(error), status=504)
    else:
        what = "could not be reached" if isinstance(error, ConnectFailed) else "was lost"
        lost = Lost(f"the worker {what}: {error}", status=502)
    lost.in_progress = not isinstance(error, ConnectFailed | ResponseTimeout)
    return lost


def client_error(failure: AttemptFailed) -> ClientError:
    """Return the client's error after the last attempt (R163, R167).

    If workers were lost and nothing else is known, no worker serves the model: 503 with Retry-After.
    """
    if isinstance(failure, Lost) and failure.status == 502:
        return ClientError(failure.text, status=503, retry_after=1)
    retry_after = None
    if isinstance(failure, Busy | Unavailable) or failure.status == 503:
        retry_after = max(1, round(failure.retry_after or 1))
    return ClientError(
        failure.text, status=failure.status, retry_after=retry_after, param=failure.param, code=failure.code
    )


def _seconds(header: str | None) -> float | None:
    """Parse Retry-After in seconds. Dates are ignored."""
    if header is None or not header.isascii() or not header.isdigit():
        return None
    return min(float(header), MAX_RETRY_AFTER)

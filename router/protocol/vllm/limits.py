"""Limits that a worker's refusals name, and requests within them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from vllama_pool.router.errors import AttemptFailed, ContextTooLong
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.errors import CONTEXT_EXCEEDED

_STOPS = re.compile(r"stop: List should have at most (\d+) item")
_UNKNOWN_FIELD = re.compile(r"stream_interval")
"""Servers that refuse unknown fields name the field."""
MAX_TOKENS = re.compile(r"max_(?:completion_)?tokens=\d+ cannot be greater than max_model_len=(\d+)")


def is_too_long(failure: AttemptFailed) -> bool:
    return failure.status == 400 and failure.text == CONTEXT_EXCEEDED


def is_counted(failure: AttemptFailed) -> bool:
    """True if the prompt alone was counted, and exceeds a context smaller than the worker's."""
    return isinstance(failure, ContextTooLong) and failure.everywhere


def is_stop_limit(failure: AttemptFailed) -> bool:
    return _STOPS.search(failure.text) is not None


def is_known(failure: AttemptFailed) -> bool:
    return is_too_long(failure) or any(pattern.search(failure.text) for pattern in (_STOPS, MAX_TOKENS, _UNKNOWN_FIELD))


def within_limits(request: api.RequestT, refusals: Sequence[AttemptFailed]) -> api.RequestT | None:
    """None if nothing changes."""
    within = request
    for refusal in refusals:
        within = _within(within, refusal)
    return None if within is request else within


def _within(request: api.RequestT, failure: AttemptFailed) -> api.RequestT:
    """Keeps the first stop strings."""
    if (found := _STOPS.search(failure.text)) and len(request.stop or ()) > int(found[1]):
        return msgspec.structs.replace(request, stop=(request.stop or [])[: int(found[1])] or None)
    if (found := MAX_TOKENS.search(failure.text)) and (request.max_tokens or 0) > int(found[1]):
        return msgspec.structs.replace(request, max_tokens=int(found[1]))
    if _UNKNOWN_FIELD.search(failure.text) and request.stream_interval is not None:
        return msgspec.structs.replace(request, stream_interval=None)
    return request

"""Texts and types of vLLM's errors (R163, R167)."""

from __future__ import annotations

import re

import msgspec

from vllama_pool.router.errors import AttemptFailed, Busy, ContextTooLong, Faulty, Lost, ModelGone, Refused, Unavailable
from vllama_pool.router.protocol.operation import StreamFailure
from vllama_pool.router.protocol.vllm.api import VllmErrorBody

CONTEXT_EXCEEDED = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the "
    "context length in settings, or use a model with a longer context length"
)
"""Ollama's text (R145)."""

WRONG_TASK = "the worker does not serve this kind of request"
"""vLLM lacks the route, such as chat for an embedding model."""

_VALIDATION = re.compile(r"'loc': '([^']*)', 'msg': (?:'([^']*)'|\"([^\"]*)\")")
_CONTEXT = re.compile(
    r"maximum context length (?:is|\()|model's context length is only|which is the upper bound"
    r"|longer than the maximum model length"
)
_TOKENS = re.compile(
    r"(?:contains|at least|passed) (\d+) input tokens|Input length \((\d+)\)|\((\d+) in the (?:messages|prompt)"
)
_LIMIT = re.compile(r"context length (?:is (?:only )?|\()(\d+)|maximum model length of (\d+)")
_DEAD_ENGINE = ("cannot schedule new futures", "EngineCore encountered an issue", "EngineDeadError")
_ADMISSION = "The engine is currently busy"
_OF_PROXIES = (408, 421, 425)
"""Refusals of a connection rather than of a request, such as the 408 that HAProxy sends on one that was idle."""
_MAX_SHOWN = 2000
"""Bytes of a body that is not JSON."""


class _ErrorResponse(msgspec.Struct, frozen=True):
    error: VllmErrorBody | str | None = None
    detail: msgspec.Raw = msgspec.Raw()
    message: str | None = None


_decode = msgspec.json.Decoder(_ErrorResponse).decode


def explain_upstream(status: int, body: bytes) -> str:
    """Never empty."""
    return _explain(body) or f"the worker answered with HTTP status {status}"


def _explain(body: bytes) -> str:
    try:
        envelope = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body[:_MAX_SHOWN].decode("utf-8", "replace").strip()
        return "" if text.startswith("<") else text
    if isinstance(envelope.error, str):
        return _plain(envelope.error)
    if envelope.error is not None and envelope.error.message:
        return explain_event(envelope.error)
    return _plain(envelope.message or _detail(envelope.detail))


def explain_event(error: VllmErrorBody | str) -> str:
    if isinstance(error, str):
        return _plain(error)
    return _plain(error.message or "unknown error")


def event_status(error: VllmErrorBody | str) -> int:
    if isinstance(error, str):
        return 500
    code = error.code
    if isinstance(code, str) and code.isascii() and code.isdigit():
        code = int(code)
    return code if isinstance(code, int) and 400 <= code <= 599 else 500


def classify(status: int, body: bytes) -> AttemptFailed:
    text = explain_upstream(status, body)
    if status == 404 and not _is_model_error(body):
        return Refused(WRONG_TASK, status=404)
    failure = classify_text(status, text)
    error = _error(body)
    if isinstance(failure, Refused) and error is not None:
        failure.param = error.param
        failure.original = (error.message or "") if text == CONTEXT_EXCEEDED else ""
    if isinstance(failure, ContextTooLong):
        failure.tokens, failure.limit = _number(_TOKENS, failure.original), _number(_LIMIT, failure.original)
    return failure


def _number(pattern: re.Pattern[str], text: str) -> int:
    """Return the first group that matched; 0 without."""
    found = pattern.search(text)
    return int(next(filter(None, found.groups()))) if found else 0


def classify_text(status: int, text: str) -> AttemptFailed:
    """A status outside 400-599 becomes 502."""
    if not 400 <= status <= 599:
        return Unavailable(text, status=502)
    if status == 429 or (status == 503 and _ADMISSION in text):
        return Busy(text, status=status)
    if any(marker in text for marker in _DEAD_ENGINE):
        lost = Lost(text, status=status)
        lost.engine_dead = True
        return lost
    if status in (502, 503, 504):
        return Unavailable(text, status=status)
    if status in _OF_PROXIES:
        return Unavailable(text, status=502)
    if status == 404:
        return ModelGone(text, status=status)
    if 400 <= status < 500:
        kind = ContextTooLong if status == 400 and text == CONTEXT_EXCEEDED else Refused
        return kind(text, status=status)
    return Faulty(text, status=status)


def classify_stream_failure(failure: StreamFailure) -> AttemptFailed:
    if failure.model_at_fault:
        return Refused(failure.text, status=failure.status)
    return classify_text(failure.status, failure.text)


def _is_model_error(body: bytes) -> bool:
    """True for vLLM's NotFoundError, False for an unknown route's {"detail": "Not Found"}."""
    return _error(body) is not None


def _error(body: bytes) -> VllmErrorBody | None:
    """Return vLLM's error object; None if the body has none."""
    try:
        error = _decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return error if isinstance(error, VllmErrorBody) else None


def _plain(text: str) -> str:
    if _CONTEXT.search(text):
        return CONTEXT_EXCEEDED
    found = _VALIDATION.findall(text)
    if found:
        return "; ".join(f"{field.removeprefix('body.')}: {single or double}" for field, single, double in found)
    text = text.partition("Valid aliases:")[0].strip()
    before, parameter, _ = text.partition("(parameter=")
    return before.strip() if parameter and text.endswith(")") else text


def _detail(raw: msgspec.Raw) -> str:
    if not bytes(raw):
        return ""
    try:
        detail = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    if isinstance(detail, str):
        return detail
    if isinstance(detail, list):
        return "; ".join(str(item.get("msg", "")) for item in detail if isinstance(item, dict))
    return ""

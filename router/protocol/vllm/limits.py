"""What a worker's refusal says of its own limits, and the request default_messages within them.

Workers that were started elsewhere have settings that are not known beforehand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from vllama_pool.router.errors import AttemptFailed
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.errors import CONTEXT_EXCEEDED

_STOPS = re.compile(r"stop: List should have at most (\d+) item")
_MAX_TOKENS = re.compile(r"max_tokens=\d+ cannot be greater than max_model_len=(\d+)")


def is_too_long(failure: AttemptFailed) -> bool:
    """Whether the prompt does not fit the model's context."""
    return failure.status == 400 and failure.text == CONTEXT_EXCEEDED


def is_known(failure: AttemptFailed) -> bool:
    """Whether there is anything here against such a refusal."""
    return is_too_long(failure) or any(sign.search(failure.text) for sign in (_STOPS, _MAX_TOKENS))


def within_limits(sent: api.RequestT, refusals: Sequence[AttemptFailed]) -> api.RequestT | None:
    """The request as the worker takes it, by all that it has refused of it; None if that is not what was wrong."""
    within = sent
    for refusal in refusals:
        within = _within(within, refusal)
    return None if within is sent else within


def _within(sent: api.RequestT, failure: AttemptFailed) -> api.RequestT:
    """The same where it keeps to the limit already.

    Of too many stop strings the first are kept: vLLM takes four unless VLLM_MAX_STOP_STRINGS says otherwise.
    """
    if (found := _STOPS.search(failure.text)) and len(sent.stop or ()) > int(found[1]):
        return msgspec.structs.replace(sent, stop=(sent.stop or [])[: int(found[1])] or None)
    if (found := _MAX_TOKENS.search(failure.text)) and (sent.max_tokens or 0) > int(found[1]):
        return msgspec.structs.replace(sent, max_tokens=int(found[1]))
    return sent

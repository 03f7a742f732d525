"""A context smaller than the worker's: `limits.context` of the routing file.

vLLM knows its own context only. A prompt that may exceed the smaller one is therefore counted by the worker first.
"""

from __future__ import annotations

import msgspec

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.errors import ContextTooLong
from vllama_pool.router.protocol.vllm.errors import CONTEXT_EXCEEDED
from vllama_pool.workers.registry.record import ModelInfo

SLACK = 256
"""Tokens of a chat template that stand for no byte of the request."""
_MEDIA = (b'_url":', b'"input_audio":')
"""Marks of parts whose tokens are not bounded by their bytes."""


def narrowed(info: ModelInfo, defaults: Defaults) -> ModelInfo:
    """Return the model with the smaller context; unchanged if its own is not longer."""
    window = window_of(info, defaults)
    return info if window is None else msgspec.structs.replace(info, context_length=window)


def window_of(info: ModelInfo, defaults: Defaults) -> int | None:
    """Return the smaller context; None if the model's own is not longer."""
    limit = defaults.context
    return None if limit is None or 0 < info.context_length <= limit else limit


def surely_fits(body: bytes, max_tokens: int | None, window: int) -> bool:
    """True if prompt and answer fit without a count. A token stands for at least one byte of `body`, the request."""
    if max_tokens is None or len(body) + SLACK + max_tokens > window:
        return False
    return not any(mark in body for mark in _MEDIA)


def too_long(tokens: int, window: int) -> ContextTooLong:
    """Return the refusal of a prompt, as vLLM words it."""
    failure = ContextTooLong(CONTEXT_EXCEEDED, status=400)
    failure.tokens, failure.limit, failure.everywhere = tokens, window, True
    failure.original = (
        f"This model's maximum context length is {window} tokens. However, your request has {tokens} input tokens. "
        "Please reduce the length of the input messages."
    )
    return failure


def lower(first: int | None, second: int | None) -> int | None:
    """Return the lower of two limits; None if there is none."""
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)


def room_after(tokens: int, window: int) -> int:
    """Return what a prompt of so many tokens leaves for the answer. Raises ContextTooLong if this is nothing."""
    if tokens >= window:
        raise too_long(tokens, window)
    return window - tokens

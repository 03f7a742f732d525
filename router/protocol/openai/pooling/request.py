"""The parts that requests for embeddings, ranks and scores have in common (R116)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Final, Literal

import msgspec

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.errors import AttemptFailed, BadRequest
from vllama_pool.router.protocol.openai import requests
from vllama_pool.router.protocol.openai.chat import explain_context
from vllama_pool.router.protocol.openai.model_kinds import Kind
from vllama_pool.router.protocol.operation import Clock, NextStep, StreamTranslator, Timing, UpstreamRequest
from vllama_pool.router.protocol.vllm import api, tokenize
from vllama_pool.router.protocol.vllm.whole_answer import WholeAnswer, read_list
from vllama_pool.router.protocol.vllm.window import too_long, window_of
from vllama_pool.workers.registry.record import ModelInfo

MAX_INPUTS = 2048
"""Texts of one request, as in OpenAI's API; each takes a place in the worker's batch."""
MAX_INTEGER = 2**31 - 1
MAX_COUNTED = 16
"""Longest texts of a request to count."""
MAX_SPECIAL_TOKENS = 16
"""Upper bound of the tokens that a model adds to a text."""
REFUSED: Final = {
    "chat_template": "the model's own template is used",
    "cache_salt": "leave it out",
    "priority": "leave it out",
    "mm_processor_kwargs": "leave it out",
    "media_io_kwargs": "leave it out",
    "normalize": "use 'use_activation'",
}


Input = str | Sequence[Any]
"""A text, or tokens."""


class PoolingRequest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The fields of all these routes. The structs are the lists of fields that are forwarded."""

    model: str = ""
    user: str | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] | None = None
    padding: Literal["max_length", "do_not_pad"] | None = None
    use_activation: bool | None = None

    stream: ClassVar = False
    streams_answer: ClassVar = False
    keep_alive: ClassVar = None


def check(request: PoolingRequest) -> None:
    """Raises BadRequest."""
    requests.require_model(request.model)
    check_integer("truncate_prompt_tokens", request.truncate_prompt_tokens, -1)


def check_integer(name: str, value: int | None, minimum: int) -> None:
    """Raises BadRequest."""
    if value is None:
        return
    if value < minimum:
        raise requests.below_minimum(name, value, minimum)
    if value > MAX_INTEGER:
        raise BadRequest(
            f"Invalid '{name}': integer above maximum value. Expected a value <= {MAX_INTEGER}, but got {value} "
            "instead.",
            param=name,
            code="integer_above_max_value",
        )


def check_length(name: str, items: Sequence[object]) -> None:
    """Raises BadRequest."""
    if not items:
        raise BadRequest(
            f"Invalid '{name}': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            param=name,
            code="empty_array",
        )
    if len(items) > MAX_INPUTS:
        raise BadRequest(
            f"Invalid '{name}': array too long. Expected an array with maximum length {MAX_INPUTS}, but got an array "
            f"with length {len(items)} instead.",
            param=name,
            code="array_above_max_length",
        )


def send(path: str, request: PoolingRequest, info: ModelInfo) -> UpstreamRequest:
    return UpstreamRequest(path, api.encode(msgspec.structs.replace(request, model=info.name)), whole=True)


def send_within(
    path: str, request: PoolingRequest, info: ModelInfo, defaults: Defaults, inputs: Callable[[], Iterable[Input]]
) -> NextStep:
    """Send the request. If an input may exceed a context smaller than the worker's, count the longest first.

    `inputs`: texts and lists of tokens. Raises Refused for tokens beyond it.
    """
    window, truncated_at = window_of(info, defaults), request.truncate_prompt_tokens
    if window is None:
        return send(path, request, info)
    if truncated_at is not None:
        return send(path, msgspec.structs.replace(request, truncate_prompt_tokens=_within(truncated_at, window)), info)
    texts: list[str] = []
    for each in inputs():
        if isinstance(each, str):
            texts.append(each)
        elif len(each) > window:
            raise too_long(len(each), window)
    counted = [text for text in sorted(texts, key=len, reverse=True)[:MAX_COUNTED] if _may_exceed(text, window)]

    def then(longest: int) -> NextStep:
        if longest > window:
            raise too_long(longest, window)
        return send(path, request, info)

    return tokenize.count_longest(info.name, counted, then)


def _within(tokens: int, window: int) -> int:
    """-1 is the whole context."""
    return window if tokens < 0 else min(tokens, window)


def _may_exceed(text: str, window: int) -> bool:
    return len(text.encode()) + MAX_SPECIAL_TOKENS > window


def explain(kind: Kind, request: PoolingRequest, field: str, failure: AttemptFailed) -> None:
    """Raises Refused with OpenAI's words, if there are any. `field`: the one that holds the text."""
    kind.explain(failure, request.model)
    explain_context(failure, field)


def translator(request: PoolingRequest, timing: Timing, clock: Clock) -> StreamTranslator:
    return WholeAnswer(request.model, read_list)

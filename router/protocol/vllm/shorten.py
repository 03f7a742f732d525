"""Shortens a prompt that exceeds the model's context (R062, R063, R145).

The oldest turns are dropped first. System messages and the last message stay, and a tool result never loses its call.
A binary search with the worker's tokenizer finds how many to drop. If that is not enough, vLLM truncates the start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from vllama_pool.router.protocol.operation import NextStep, UpstreamRequest
from vllama_pool.router.protocol.vllm import api, tokenize
from vllama_pool.router.protocol.vllm.resumable import chat_without_prompt
from vllama_pool.router.protocol.vllm.strict_templates import Form, unchanged
from vllama_pool.router.protocol.vllm.window import room_after

SHARE = 4
"""Up to 1/SHARE of the context is reserved for the answer."""

LONGEST_TOKEN = 256
"""Characters. More per token of context is too long; counting megabytes would take seconds."""


Send = Callable[[api.VllmChatRequest], NextStep]


@dataclass(frozen=True, slots=True)
class Shortening:
    start: int
    """First kept message. Earlier system messages are kept too."""
    question: int | None = None
    """Earlier user message that the kept turns answer."""

    def apply(self, messages: Sequence[api.VllmMessage]) -> list[api.VllmMessage]:
        before = [
            message
            for position, message in enumerate(messages[: self.start])
            if message.role == "system" or position == self.question
        ]
        return [*before, *messages[self.start :]]


def room(limit: int, max_tokens: int | None) -> int:
    """Tokens to reserve for the answer."""
    return max(1, min(limit // SHARE, max_tokens or limit))


def shortenings(messages: Sequence[api.VllmMessage]) -> list[Shortening]:
    """Every shortening, longest first.

    Kept messages begin with a user message, as many templates require. Calls after the last
    user message are dropped before that message.
    """
    starts = _valid_starts(messages)
    questions = [start for start in starts if messages[start].role == "user"]
    last_question = questions[-1] if questions else None
    later = starts if last_question is None else [start for start in starts if start > last_question]
    result = [Shortening(start) for start in questions]
    result += [Shortening(start, last_question) for start in later if start - 1 != last_question]
    if later and last_question is not None:
        result.append(Shortening(later[-1]))
    first = next((place for place, message in enumerate(messages) if message.role != "system"), 0)
    return [Shortening(0), *(shortening for shortening in result if shortening.start > first)]


def _valid_starts(messages: Sequence[api.VllmMessage]) -> list[int]:
    """Positions from which every tool result has its call."""
    calls: dict[str, int] = {}
    needs = []
    for position, message in enumerate(messages):
        calls.update((call.id, position) for call in message.tool_calls or ())
        needs.append(calls.get(message.tool_call_id, position) if message.tool_call_id else position)
    starts = []
    earliest = len(messages)
    for position in range(len(messages) - 1, -1, -1):
        earliest = min(earliest, needs[position])
        if earliest >= position and messages[position].role != "system":
            starts.append(position)
    return starts[::-1]


def send_chat(chat: api.VllmChatRequest) -> NextStep:
    return UpstreamRequest(api.CHAT_PATH, api.encode(chat), resume=chat_without_prompt(chat))


def fitted(
    chat: api.VllmChatRequest, send: Send, otherwise: Callable[[], NextStep], window: int | None = None
) -> NextStep:
    """Limit max_tokens to what the prompt leaves of the context: older releases of vLLM refuse more.

    `otherwise`: the step if this is not the reason of the refusal. `window`: the context, if it is smaller than the
    worker's.
    """
    if chat.max_tokens is None:
        return otherwise()

    def on_count(count: api.VllmTokenCount) -> NextStep:
        fitting = fit(chat, count.max_model_len, count.count)
        return otherwise() if fitting is None else send(fitting)

    return tokenize.count_chat(chat, on_count, window=window)


def within_window(chat: api.VllmChatRequest, window: int, send: Send) -> NextStep:
    """Limit max_tokens to what the prompt leaves of a context smaller than the worker's. Raises Refused if it leaves
    nothing."""

    def on_count(count: api.VllmTokenCount) -> NextStep:
        return send(limited_to(chat, count.max_model_len, count.count))

    return tokenize.count_chat(chat, on_count, window=window)


def limited_to(request: api.RequestT, limit: int, tokens: int) -> api.RequestT:
    """Limit max_tokens to what a prompt of so many tokens leaves of a context. Raises Refused if it leaves nothing."""
    return _limited(request, room_after(tokens, limit))


def fit(request: api.RequestT, limit: int, tokens: int) -> api.RequestT | None:
    """Limit max_tokens to what a prompt of so many tokens leaves of the context. None if max_tokens leaves room."""
    remaining = limit - tokens
    if request.max_tokens is None or not 0 < remaining < request.max_tokens:
        return None
    return _limited(request, remaining)


def shortened(
    chat: api.VllmChatRequest,
    limit: int,
    *,
    form: Form = unchanged,
    send: Send = send_chat,
    window: int | None = None,
) -> NextStep:
    """`limit`: the context in tokens; 0 if unknown. `form` changes the kept messages. `window`: the context, if it is
    smaller than the worker's."""
    candidates = shortenings(chat.messages)

    def narrow(low: int, high: int, best: api.VllmChatRequest | None, limit: int) -> NextStep:
        """Shortenings before `low` are too long. The one at `high` fits; it is `best`."""
        if low == high:
            return send(best or cut(_with(chat, candidates[-1], form), limit))
        middle = (low + high) // 2
        tried = _with(chat, candidates[middle], form)
        if limit and _characters(tried) > limit * LONGEST_TOKEN:
            return narrow(middle + 1, high, best, limit)

        def on_count(count: api.VllmTokenCount) -> NextStep:
            limit = count.max_model_len
            remaining = limit - count.count
            if remaining < room(limit, chat.max_tokens):
                return narrow(middle + 1, high, best, limit)
            return narrow(low, middle, _limited(tried, remaining), limit)

        return tokenize.count_chat(tried, on_count, window=window)

    return narrow(0, len(candidates), None, limit)


def cut(request: api.RequestT, limit: int) -> api.RequestT:
    remaining = room(limit, request.max_tokens)
    return msgspec.structs.replace(_limited(request, remaining), truncate_prompt_tokens=max(1, limit - remaining))


def _limited(request: api.RequestT, remaining: int) -> api.RequestT:
    """Older releases of vLLM do not limit max_tokens."""
    if request.max_tokens is None or request.max_tokens <= remaining:
        return request
    return msgspec.structs.replace(request, max_tokens=remaining)


def _characters(chat: api.VllmChatRequest) -> int:
    return sum(len(message.content) for message in chat.messages if isinstance(message.content, str))


def _with(chat: api.VllmChatRequest, shortening: Shortening, form: Form) -> api.VllmChatRequest:
    return msgspec.structs.replace(chat, messages=form(shortening.apply(chat.messages)))

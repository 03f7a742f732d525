"""Shortens a prompt that a worker has refused as longer than the model's context (R062, R063, R145).

The oldest turns are dropped first. System messages and the last message stay, and a tool result never loses its call.
A binary search, counting with the worker's tokenizer, finds how many turns to drop. If that is not enough, the start of
the prompt is truncated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from vllama_pool.router.protocol.operation import NextStep, UpstreamRequest
from vllama_pool.router.protocol.vllm import api, tokenize

SHARE = 4
"""At most 1/SHARE of the context is reserved for the answer."""

LONGEST_TOKEN = 256
"""Characters. Longer texts per token of context are too long without counting, which takes seconds for megabytes."""


@dataclass(frozen=True, slots=True)
class Shortening:
    start: int
    """Position of the first kept message. System messages before it are kept too."""
    question: int | None = None
    """Position of an earlier user message that is kept too: the one that the kept turns answer."""

    def apply(self, messages: Sequence[api.VllmMessage]) -> list[api.VllmMessage]:
        before = [
            message
            for position, message in enumerate(messages[: self.start])
            if message.role == "system" or position == self.question
        ]
        return [*before, *messages[self.start :]]


def room(limit: int, max_tokens: int | None) -> int:
    """Tokens to reserve for the answer in a context of `limit` tokens; at least one."""
    return max(1, min(limit // SHARE, max_tokens or limit))


def shortenings(messages: Sequence[api.VllmMessage]) -> list[Shortening]:
    """Every shortening of a conversation, from all of it to the shortest.

    The kept part begins with a user message, as many templates require. An agent's calls after the last user
    message are dropped before that message.
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
    """Positions, except of system messages, from which every tool result still has its call."""
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


def shortened(chat: api.VllmChatRequest, limit: int) -> NextStep:
    """Search for a chat request that fits. `limit`: the context in tokens, 0 if only the worker knows it."""
    candidates = shortenings(chat.messages)

    def narrow(low: int, high: int, best: api.VllmChatRequest | None, limit: int) -> NextStep:
        """Shortenings before `low` are too long. The one at `high`, if any, fits: it is `best`."""
        if low == high:
            return _send(best or cut(_with(chat, candidates[-1]), limit))
        middle = (low + high) // 2
        tried = _with(chat, candidates[middle])
        if limit and _characters(tried) > limit * LONGEST_TOKEN:
            return narrow(middle + 1, high, best, limit)

        def on_count(count: api.VllmTokenCount) -> NextStep:
            limit = count.max_model_len
            remaining = limit - count.count
            if remaining < room(limit, chat.max_tokens):
                return narrow(middle + 1, high, best, limit)
            return narrow(low, middle, _limited(tried, remaining), limit)

        return tokenize.count_chat(tried, on_count)

    return narrow(0, len(candidates), None, limit)


def cut(request: api.RequestT, limit: int) -> api.RequestT:
    remaining = room(limit, request.max_tokens)
    return msgspec.structs.replace(_limited(request, remaining), truncate_prompt_tokens=max(1, limit - remaining))


def _limited(request: api.RequestT, remaining: int) -> api.RequestT:
    """Limit max_tokens to the tokens that remain: older releases of vLLM do not."""
    if request.max_tokens is None or request.max_tokens <= remaining:
        return request
    return msgspec.structs.replace(request, max_tokens=remaining)


def _characters(chat: api.VllmChatRequest) -> int:
    return sum(len(message.content) for message in chat.messages if isinstance(message.content, str))


def _with(chat: api.VllmChatRequest, shortening: Shortening) -> api.VllmChatRequest:
    return msgspec.structs.replace(chat, messages=shortening.apply(chat.messages))


def _send(chat: api.VllmChatRequest) -> UpstreamRequest:
    return UpstreamRequest(api.CHAT_PATH, api.encode(chat))

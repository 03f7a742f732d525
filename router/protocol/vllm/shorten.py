"""Making a prompt fit the model's context, once the worker has said that it does not (R062, R063, R145).

The oldest turns go first. System messages and the last message always stay, and a tool's result never stays
without the call that it answers, since chat templates refuse that. How far to go is found by halving, counted by the
worker's own tokenizer. Where nothing may be left out any more, the prompt's beginning is cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from vllama_pool.router.protocol.operation import NextStep, UpstreamRequest
from vllama_pool.router.protocol.vllm import api, tokenize

SHARE = 4
"""One part in so many of the context is left for the answer, or less if the request wants less."""

LONGEST_TOKEN = 256
"""Characters; few vocabularies have runs of blanks longer than half of this. More text need not be counted to be known
as too long: megabytes of it take seconds."""


@dataclass(frozen=True, slots=True)
class Shortening:
    """A conversation without its oldest turns."""

    start: int
    """Where what is kept begins; system messages before it are kept too."""
    question: int | None = None
    """A user's message before it that is kept as well: the one that the turns after it are about."""

    def of(self, messages: Sequence[api.VllmMessage]) -> list[api.VllmMessage]:
        before = [
            message
            for position, message in enumerate(messages[: self.start])
            if message.role == "system" or position == self.question
        ]
        return [*before, *messages[self.start :]]


def room(limit: int, max_tokens: int | None) -> int:
    """Tokens of a context of `limit` that are left for the answer; at least one."""
    return max(1, min(limit // SHARE, max_tokens or limit))


def ways(messages: Sequence[api.VllmMessage]) -> list[Shortening]:
    """Every way to shorten a conversation, from the whole of it to the shortest.

    While there are questions to drop, what is kept begins with one: many templates want a user's turn first. After
    the last of them (an agent at work) calls with their results go one by one, and that question at the very end.
    """
    starts = _sound_starts(messages)
    questions = [start for start in starts if messages[start].role == "user"]
    last_question = questions[-1] if questions else None
    later = starts if last_question is None else [start for start in starts if start > last_question]
    found = [Shortening(start) for start in questions]
    found += [Shortening(start, last_question) for start in later if start - 1 != last_question]
    if later and last_question is not None:
        found.append(Shortening(later[-1]))
    first = next((place for place, message in enumerate(messages) if message.role != "system"), 0)
    return [Shortening(0), *(way for way in found if way.start > first)]


def _sound_starts(messages: Sequence[api.VllmMessage]) -> list[int]:
    """Where a conversation may begin, so that every tool's result still has its call. System messages are none."""
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
    """The way to a chat request that fits. `limit`: the context's tokens, 0 where only the worker knows."""
    found = ways(chat.messages)

    def narrow(low: int, high: int, best: api.VllmChatRequest | None, limit: int) -> NextStep:
        """Ways before `low` are too long; the one at `high`, if there is one, fits: it is `best`."""
        if low == high:
            return _send(best or cut(_with(chat, found[-1]), limit))
        middle = (low + high) // 2
        tried = _with(chat, found[middle])
        if limit and _characters(tried) > limit * LONGEST_TOKEN:
            return narrow(middle + 1, high, best, limit)

        def counted(answer: api.VllmTokenCount) -> NextStep:
            limit = answer.max_model_len
            left = limit - answer.count
            if left < room(limit, chat.max_tokens):
                return narrow(middle + 1, high, best, limit)
            return narrow(low, middle, _limited(tried, left), limit)

        return tokenize.count_chat(tried, counted)

    return narrow(0, len(found), None, limit)


def cut(request: api.RequestT, limit: int) -> api.RequestT:
    """The same request with its prompt's beginning cut off, so that there is room for an answer."""
    left = room(limit, request.max_tokens)
    return msgspec.structs.replace(_limited(request, left), truncate_prompt_tokens=max(1, limit - left))


def _limited(request: api.RequestT, left: int) -> api.RequestT:
    """With no more output than there is room for: older releases of vLLM do not see to that themselves."""
    if request.max_tokens is None or request.max_tokens <= left:
        return request
    return msgspec.structs.replace(request, max_tokens=left)


def _characters(chat: api.VllmChatRequest) -> int:
    return sum(len(message.content) for message in chat.messages if isinstance(message.content, str))


def _with(chat: api.VllmChatRequest, way: Shortening) -> api.VllmChatRequest:
    return msgspec.structs.replace(chat, messages=way.of(chat.messages))


def _send(chat: api.VllmChatRequest) -> UpstreamRequest:
    return UpstreamRequest(api.CHAT_PATH, api.encode(chat))

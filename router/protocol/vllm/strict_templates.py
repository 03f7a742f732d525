"""Conversations for chat templates that refuse what Ollama renders.

Strict templates take one system message at the beginning, and then the user's and the assistant's messages in turn.
Some take no system message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

import msgspec

from vllama_pool.router.errors import AttemptFailed
from vllama_pool.router.protocol.vllm import api, limits

Form = Callable[[list[api.VllmMessage]], list[api.VllmMessage]]

SYSTEM_ROLES = ("system", "developer")
_SEPARATOR = "\n\n"
"""As in Ollama."""
_NO_SYSTEM_ROLE = re.compile(
    r"system (role|message|prompt|instruction)s?\b[^.!]{0,20}\bnot\b[^.!]{0,10}\b(supported|allowed)"
    r"|not support[^.!]{0,20}\bsystem\b"
    r"|only user and assistant roles are supported(?![^!.]*system)",
    re.IGNORECASE,
)


def unchanged(messages: list[api.VllmMessage]) -> list[api.VllmMessage]:
    return messages


def form_after(refusals: Sequence[AttemptFailed], messages: list[api.VllmMessage], template: str) -> Form | None:
    """Choose a form that the template may accept; None if there is none. vLLM does not mark a template's refusal.

    `template`: "" if unknown.
    """
    unexplained = [refusal for refusal in refusals if not limits.is_known(refusal)]
    if not unexplained:
        return unchanged
    if len(unexplained) > 1 or unexplained[0].status != 400:
        return None
    forms = (gathered, without_system) if _takes_system(unexplained[0].text, template) else (without_system,)
    return next((form for form in forms if form(messages) != messages), None)


def apply(form: Form, chat: api.VllmChatRequest) -> api.VllmChatRequest:
    return msgspec.structs.replace(chat, messages=form(chat.messages))


def _takes_system(refusal: str, template: str) -> bool:
    if _NO_SYSTEM_ROLE.search(refusal):
        return False
    if template:
        return "system" in template and not _NO_SYSTEM_ROLE.search(template)
    return "system" in refusal.lower()


def gathered(messages: list[api.VllmMessage]) -> list[api.VllmMessage]:
    """Put all system texts into the first message, and join neighbours of one role, except tool results.

    An empty user message precedes an assistant message that would come first.
    """
    system = [message for message in messages if message.role in SYSTEM_ROLES]
    turns = _joined_neighbours(message for message in messages if message.role not in SYSTEM_ROLES)
    if turns and turns[0].role == "assistant":
        turns.insert(0, api.VllmMessage("user", ""))
    return [api.VllmMessage("system", _joined_contents(system)), *turns] if system else turns


def without_system(messages: list[api.VllmMessage]) -> list[api.VllmMessage]:
    """Gather, and put the system text before the first user message."""
    first, *turns = gathered(messages)
    if first.role != "system":
        return [first, *turns]
    if turns and turns[0].role == "user":
        return [_joined([first, turns[0]], "user"), *turns[1:]]
    return [api.VllmMessage("user", first.content), *turns]


def _joined_neighbours(messages: Iterable[api.VllmMessage]) -> list[api.VllmMessage]:
    result: list[api.VllmMessage] = []
    for role, run in groupby(messages, lambda message: message.role):
        if role == "tool":
            result += run
        else:
            result.append(_joined(list(run), role))
    return result


def _joined(messages: Sequence[api.VllmMessage], role: str) -> api.VllmMessage:
    if len(messages) == 1:
        return messages[0]
    return api.VllmMessage(
        role,
        _joined_contents(messages),
        _SEPARATOR.join(message.reasoning for message in messages if message.reasoning) or None,
        [call for message in messages for call in message.tool_calls or ()] or None,
    )


def _joined_contents(messages: Sequence[api.VllmMessage]) -> str | list[api.VllmPart]:
    contents = [message.content for message in messages if message.content]
    texts = [content for content in contents if isinstance(content, str)]
    if len(texts) == len(contents):
        return _SEPARATOR.join(texts)
    return [part for content in contents for part in _parts(content)]


def _parts(content: str | list[api.VllmPart]) -> list[api.VllmPart]:
    return [api.VllmPart("text", text=content)] if isinstance(content, str) else content

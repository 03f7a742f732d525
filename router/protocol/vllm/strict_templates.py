"""Conversations for chat templates that refuse what Ollama renders.

Strict templates take one system message at the beginning, and then the user's and the assistant's messages in turn.
Some take no system message, no tool results, or only ids of nine characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from itertools import groupby

import msgspec

from vllama_pool.router.errors import AttemptFailed
from vllama_pool.router.protocol.vllm import api, limits
from vllama_pool.workers.registry.record import ModelInfo

Form = Callable[[list[api.VllmMessage]], list[api.VllmMessage]]

SYSTEM_ROLES = ("system", "developer")
_SEPARATOR = "\n\n"
"""As in Ollama."""
_NO_SYSTEM_ROLE = re.compile(
    r"system (role|message|prompt|instruction)s?\b[^.!]{0,20}\bnot\b[^.!]{0,10}\b(supported|allowed)"
    r"|not support[^.!]{0,20}\bsystem\b"
    r"|\bincompatible with system\b"
    r"|only user and assistant roles are supported(?![^!.]*system)",
    re.IGNORECASE,
)
_SHORT_IDS = re.compile(r"tool call id.{0,99}length (of )?9\b", re.IGNORECASE)
"""Mistral's templates and tokenizer."""
_FAULT = re.compile(r"internal server error|jinja|template|\broles?\b|system (message|prompt)", re.IGNORECASE)
"""In the text of a 500. Some releases of vLLM answer so where a template refuses, mostly without its text."""


def unchanged(messages: list[api.VllmMessage]) -> list[api.VllmMessage]:
    return messages


def form_after(refusals: Sequence[AttemptFailed], messages: list[api.VllmMessage], info: ModelInfo) -> Form | None:
    """Choose a form that the template may accept; None if there is none. vLLM does not mark a template's refusal."""
    unexplained = [refusal for refusal in refusals if not limits.is_known(refusal)]
    if not unexplained:
        return unchanged
    if len(unexplained) > 1 or not _may_be_templates(unexplained[0]):
        return None
    forms = _forms(unexplained[0].text, messages, info)
    return next((form for form in forms if form(messages) != messages), None)


def _may_be_templates(failure: AttemptFailed) -> bool:
    return failure.status == 400 or (failure.status == 500 and _FAULT.search(failure.text) is not None)


def _forms(refusal: str, messages: list[api.VllmMessage], info: ModelInfo) -> Iterable[Form]:
    """Return the form to prefer, then the one for messages that it does not change."""
    before = [] if "tools" in info.capabilities or "tool" in info.template else [without_tools]
    after = [with_short_ids] if _SHORT_IDS.search(refusal) else []
    if _takes_system(refusal, info.template) and any(message.role not in SYSTEM_ROLES for message in messages):
        yield composed(*before, gathered, *after)
    yield composed(*before, without_system, *after)


def composed(*forms: Form) -> Form:
    """Apply one after the other."""
    return lambda messages: reduce(lambda changed, form: form(changed), forms, messages)


def apply(form: Form, chat: api.VllmChatRequest) -> api.VllmChatRequest:
    if form is unchanged:
        return chat
    return msgspec.structs.replace(chat, messages=form(chat.messages))


def _takes_system(refusal: str, template: str) -> bool:
    if _NO_SYSTEM_ROLE.search(refusal):
        return False
    if template:
        return "system" in template and not _NO_SYSTEM_ROLE.search(template)
    return "system" in refusal.lower()


def gathered(messages: list[api.VllmMessage]) -> list[api.VllmMessage]:
    """Put all system texts into the first message, and join neighbours of one role, except tool results.

    Images of system messages go to the first user message, because many templates allow none there.
    An empty message is inserted where a turn is missing: before a first assistant message or tool result, and between a
    tool result and a user message.
    """
    system = [message for message in messages if message.role in SYSTEM_ROLES]
    turns = _with_missing_turns(_joined_neighbours(message for message in messages if message.role not in SYSTEM_ROLES))
    return _after_system(_joined_contents(system), turns) if system else turns


def _after_system(content: str | list[api.VllmPart], turns: list[api.VllmMessage]) -> list[api.VllmMessage]:
    images = [part for part in _parts(content) if part.type != "text"]
    first = next((index for index, turn in enumerate(turns) if turn.role == "user"), None)
    if not images or first is None:
        return [api.VllmMessage("system", content), *turns]
    text = _SEPARATOR.join(part.text for part in _parts(content) if part.text)
    shown = msgspec.structs.replace(turns[first], content=[*images, *_parts(turns[first].content or "")])
    return [*([api.VllmMessage("system", text)] if text else []), *turns[:first], shown, *turns[first + 1 :]]


def without_system(messages: list[api.VllmMessage]) -> list[api.VllmMessage]:
    """Gather, and put the system text before the first user message."""
    first, *turns = gathered(messages)
    if first.role != "system":
        return [first, *turns]
    if turns and turns[0].role == "user":
        return [_joined([first, turns[0]], "user"), *turns[1:]]
    return [api.VllmMessage("user", first.content), *turns]


def without_tools(messages: list[api.VllmMessage]) -> list[api.VllmMessage]:
    """Turn tool calls into text, and tool results into user messages."""
    return [_without_tools(message) for message in messages]


def _without_tools(message: api.VllmMessage) -> api.VllmMessage:
    if message.role == "tool":
        return api.VllmMessage("user", message.content)
    if not message.tool_calls:
        return message
    calls = "\n".join(f"{call.function.name}({call.function.arguments})" for call in message.tool_calls)
    content = _joined_contents([message, api.VllmMessage(message.role, calls)])
    return api.VllmMessage(message.role, content, message.reasoning)


def with_short_ids(messages: list[api.VllmMessage]) -> list[api.VllmMessage]:
    """Replace the ids of tool calls by numbers of nine digits."""
    ids: dict[str, str] = {}

    def short(id: str) -> str:
        return ids.setdefault(id, f"{len(ids):09d}")

    return [
        msgspec.structs.replace(
            message,
            tool_calls=[msgspec.structs.replace(call, id=short(call.id)) for call in message.tool_calls or ()] or None,
            tool_call_id=message.tool_call_id and short(message.tool_call_id),
        )
        for message in messages
    ]


def _with_missing_turns(turns: Sequence[api.VllmMessage]) -> list[api.VllmMessage]:
    result: list[api.VllmMessage] = []
    for turn in turns:
        if not result and turn.role in ("assistant", "tool"):
            result.append(api.VllmMessage("user", ""))
        elif result and result[-1].role == "tool" and turn.role == "user":
            result.append(api.VllmMessage("assistant", ""))
        result.append(turn)
    return result


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
    result: list[api.VllmPart] = []
    for content in contents:
        first, *others = _parts(content)
        if result and result[-1].text and first.text:  # templates put nothing between parts
            first = api.VllmPart("text", text=f"{result.pop().text}{_SEPARATOR}{first.text}")
        result += [first, *others]
    return result


def _parts(content: str | list[api.VllmPart]) -> list[api.VllmPart]:
    if isinstance(content, str):
        return [api.VllmPart("text", text=content)] if content else []
    return content

"""What a running server can do that its routes do not tell: whether its parsers for tools and thinking are on.

For a vLLM that somebody else started: its flags are not known, and its model's files may be elsewhere. One or two
short requests show it, as its warm-up is short requests too.
"""

from __future__ import annotations

from typing import Any

import httpx
import msgspec

TIMEOUT = 60.0
"""Seconds for each request; the server may be busy with others'."""
TOKENS = 12
"""Enough for a model that thinks to have begun."""

_TOOL = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "Get the current time",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class _Message(msgspec.Struct):
    reasoning: str | None = None
    reasoning_content: str | None = None
    """The same in vLLM before 0.11."""


class _Choice(msgspec.Struct):
    message: _Message


class _Answer(msgspec.Struct):
    choices: list[_Choice]


async def abilities(client: httpx.AsyncClient, url: str, model: str, key: str | None = None) -> tuple[str, ...]:
    """Of "tools" and "thinking" those that a chat with this model showed. What cannot be asked now is not claimed."""
    chat: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "What is 17 times 23?"}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "chat_template_kwargs": {"enable_thinking": True, "thinking": True},
    }
    found = []
    answer = await _ask(client, url, {**chat, "tools": [_TOOL]}, key)
    if answer is not None:
        found.append("tools")
    else:
        answer = await _ask(client, url, chat, key)
    if answer is not None and any(one.message.reasoning or one.message.reasoning_content for one in answer.choices):
        found.append("thinking")
    return tuple(found)


async def _ask(client: httpx.AsyncClient, url: str, body: dict[str, Any], key: str | None) -> _Answer | None:
    """The answer to a chat; None for a refusal, and for whatever vLLM would not say."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        response = await client.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=TIMEOUT)
        return msgspec.json.decode(response.content, type=_Answer) if response.status_code == 200 else None
    except (httpx.HTTPError, msgspec.DecodeError):
        return None

"""What a running server can do that its routes do not tell: tools, thinking, images.

For a vLLM that somebody else started: its flags are not known, and its model's files may be elsewhere. Two or three
short requests show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import msgspec

TIMEOUT = 30.0
"""Seconds for each request; the server may be busy with others'."""
TOKENS = 12
"""Enough for a model that thinks to have begun."""

_BUSY = frozenset({408, 429, 503, 504})
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "Get the current time",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
_IMAGE = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAADgAAAA4CAIAAAAn5KxJAAAAP0lEQVR42u3OMQ0AAAwDoEqv9B5TsQQUkD4RUVFRUVFRUVFRUVFRUVFRUVFR"
    "UVFRUVFRUVFRUVFRUVFRUVHRM4zeYQ8NTLd/AAAAAElFTkSuQmCC"
)
"""Grey, 56 pixels square: not too small for any model's tiles."""
_SEEING = {
    "messages": [
        {
            "role": "user",
            "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": _IMAGE}}],
        }
    ],
    "max_tokens": 1,
}


class _Message(msgspec.Struct):
    reasoning: str | None = None
    reasoning_content: str | None = None
    """The same in vLLM before 0.11."""


class _Choice(msgspec.Struct):
    message: _Message


class _Answer(msgspec.Struct):
    choices: list[_Choice]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a server has shown."""

    able: tuple[str, ...] = ()
    """Of "tools", "thinking" and "vision". What could not be asked is not claimed."""
    settled: bool = True
    """Whether everything was answered or refused; otherwise a later time may show more."""


async def abilities(client: httpx.AsyncClient, url: str, model: str, key: str | None = None) -> Shown:
    """What chats with this model show. A server that neither answers nor refuses is asked nothing more."""
    chat: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "What is 17 times 23?"}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "chat_template_kwargs": {"enable_thinking": True, "thinking": True},
    }
    found: list[str] = []
    try:
        answer = await _ask(client, url, {**chat, "tools": [_TOOL]}, key)
        if answer is not None:
            found.append("tools")
        else:
            answer = await _ask(client, url, chat, key)
        if answer is not None and any(one.message.reasoning or one.message.reasoning_content for one in answer.choices):
            found.append("thinking")
        if answer is not None and await _ask(client, url, {**chat, **_SEEING}, key) is not None:
            found.append("vision")
    except (httpx.HTTPError, _Busy):
        return Shown(tuple(found), settled=False)
    except (msgspec.DecodeError, RecursionError):
        return Shown(tuple(found))
    return Shown(tuple(found))


class _Busy(Exception):
    """The server takes no more requests now."""


async def _ask(client: httpx.AsyncClient, url: str, body: dict[str, Any], key: str | None) -> _Answer | None:
    """The answer to a chat; None for a refusal. Raises what keeps it from being either."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    response = await client.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=TIMEOUT)
    if response.status_code in _BUSY:
        raise _Busy
    return msgspec.json.decode(response.content, type=_Answer) if response.status_code == 200 else None

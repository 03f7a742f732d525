"""Detect tool, thinking and image support of an attached or static server with a few short chats."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import msgspec

TIMEOUT = 30.0
"""Seconds per request."""
TOKENS = 12
"""Enough to start reasoning."""

ABILITIES: tuple[str, ...] = ("tools", "thinking", "vision")
"""In the order of their detection."""

_SWITCHES: tuple[dict[str, Any], ...] = (
    {"chat_template_kwargs": {"enable_thinking": True, "thinking": True}},
    {"reasoning_effort": "high"},
    {},
)
"""Fields that turn on thinking. Mistral's tokenizers refuse the first, and the second if the model does not think."""
_BUSY = frozenset({408, 429, 502, 503, 504})
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
"""56 x 56 pixels: large enough for every model's tiles."""
_IMAGE_CHAT = {
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
    """Before vLLM 0.11."""


class _Choice(msgspec.Struct):
    message: _Message


class _Completion(msgspec.Struct):
    choices: list[_Choice]


@dataclass(frozen=True, slots=True)
class Detection:
    abilities: tuple[str, ...] = ()
    """Subset of ABILITIES."""
    undetected: tuple[str, ...] = ()
    """Those that a retry may detect."""

    @property
    def complete(self) -> bool:
        return not self.undetected


async def detect_abilities(client: httpx.AsyncClient, url: str, model: str, key: str | None = None) -> Detection:
    """Stop at the first request that fails without a refusal."""
    ask = partial(_chat, client, url, key)
    chat: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "What is 17 times 23?"}],
        "max_tokens": TOKENS,
        "temperature": 0,
    }
    found: dict[str, bool] = {}
    try:
        with_tools, switch, answer = await _first_answer(ask, chat)
        found["tools"] = with_tools and answer is not None
        found["thinking"] = answer is not None and _thinks(answer)
        found["vision"] = answer is not None and await ask({**chat, **switch, **_IMAGE_CHAT}) is not None
    except (httpx.HTTPError, _ServerBusy):
        undetected = tuple(name for name in ABILITIES if name not in found)
    except (msgspec.DecodeError, RecursionError):
        undetected = ()
    else:
        undetected = ()
    return Detection(tuple(name for name in ABILITIES if found.get(name)), undetected)


async def _first_answer(
    ask: Callable[[dict[str, Any]], Awaitable[_Completion | None]], chat: dict[str, Any]
) -> tuple[bool, dict[str, Any], _Completion | None]:
    """Return the first answer, None if all chats were refused, and if it had a tool and by which fields it thinks."""
    for switch in _SWITCHES:
        for tools in ({"tools": [_TOOL]}, {}):
            answer = await ask({**chat, **switch, **tools})
            if answer is not None:
                return bool(tools), switch, answer
    return False, {}, None


def _thinks(answer: _Completion) -> bool:
    return any(one.message.reasoning or one.message.reasoning_content for one in answer.choices)


class _ServerBusy(Exception):
    """Overloaded."""


async def _chat(client: httpx.AsyncClient, url: str, key: str | None, body: dict[str, Any]) -> _Completion | None:
    """Send a chat. Returns None if it is refused. Raises _Busy, httpx.HTTPError and msgspec.DecodeError."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    response = await client.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=TIMEOUT)
    if response.status_code in _BUSY:
        raise _ServerBusy
    return msgspec.json.decode(response.content, type=_Completion) if response.status_code == 200 else None

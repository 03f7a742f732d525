"""/v1/messages as Ollama answers it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from tests.support.compat.reply import ARGUMENTS, PROMPT_TOKENS, Refused, Reply, chatting, from_base64, reply, typed

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}


def messages(body: Mapping[str, Any]) -> Iterator[Any]:
    typed(body, stream=bool, temperature=(int, float), max_tokens=int)
    if not body.get("model"):
        raise Refused(400, "model is required")
    if (body.get("max_tokens") or 0) <= 0:
        raise Refused(400, "max_tokens is required and must be positive")
    if not body.get("messages"):
        raise Refused(400, "messages is required")
    for message in body["messages"]:
        for block in message["content"] if isinstance(message["content"], list) else ():
            valid_block(block)
    chatting(body)
    on = (body.get("thinking") or {}).get("type") != "disabled"
    found = reply(body, body["max_tokens"], stop=body.get("stop_sequences"), think=on)
    return message_stream(found) if body.get("stream") else iter([message_answer(found)])


def valid_block(block: Mapping[str, Any]) -> None:
    if block["type"] == "tool_use":
        for key in ("id", "name"):
            if not block.get(key):
                raise Refused(400, f"tool_use block missing required '{key}' field")
    if block["type"] == "image":
        source = block.get("source") or {}
        if source.get("type") != "base64":
            raise Refused(400, "invalid image source")
        from_base64(source["data"])


def stop_reason(found: Reply) -> str:
    return "tool_use" if found.calls else STOP_REASONS[found.reason]


def tool_use(index: int, name: str, given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"call_{index}", "name": name, "input": given}


def head(found: Reply) -> dict[str, Any]:
    return {"id": "msg_0123456789abcdef01234567", "type": "message", "role": "assistant", "model": found.model}


def message_answer(found: Reply) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "thinking", "thinking": found.thoughts}] if found.thoughts else []
    if found.text:
        content.append({"type": "text", "text": found.text})
    content += [tool_use(index, name, json.loads(ARGUMENTS)) for index, name in enumerate(found.calls)]
    usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": found.tokens}
    return {**head(found), "content": content, "stop_reason": stop_reason(found), "usage": usage}


def message_stream(found: Reply) -> Iterator[Any]:
    """The tokens at the start are an estimate."""
    begin = {**head(found), "content": [], "usage": {"input_tokens": 3, "output_tokens": 0}}
    yield {"type": "message_start", "message": begin}
    index = count()
    if found.thoughts:
        deltas = [{"type": "thinking_delta", "thinking": found.thoughts}]
        yield from block_events(next(index), {"type": "thinking", "thinking": ""}, deltas)
    if found.words:
        deltas = [{"type": "text_delta", "text": word} for word in found.words]
        yield from block_events(next(index), {"type": "text", "text": ""}, deltas)
    for number, name in enumerate(found.calls):
        deltas = [{"type": "input_json_delta", "partial_json": ARGUMENTS}]
        yield from block_events(next(index), tool_use(number, name, {}), deltas)
    usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": found.tokens}
    yield {"type": "message_delta", "delta": {"stop_reason": stop_reason(found)}, "usage": usage}
    yield {"type": "message_stop"}


def block_events(index: int, block: dict[str, Any], deltas: list[dict[str, str]]) -> Iterator[Any]:
    yield {"type": "content_block_start", "index": index, "content_block": block}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}

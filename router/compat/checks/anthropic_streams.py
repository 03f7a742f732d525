"""Anthropic's messages: streams."""

from __future__ import annotations

from typing import Any

from vllama_pool.router.compat.checks.anthropic_messages import ASKED, LONGER, REASONS, ROOM, TOOL
from vllama_pool.router.compat.checks.check import covers
from vllama_pool.router.compat.checks.v1_requests import MESSAGES, ask, whole
from vllama_pool.router.compat.event_stream import typed_events
from vllama_pool.router.compat.expect import Skipped, expect, field, parsed, same
from vllama_pool.router.compat.server import CheckedServer

DELTAS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
SIGNATURE = "signature_delta"
"""Never sent by Ollama, but by Anthropic at the end of each thinking block."""


async def streamed(server: CheckedServer, *, use: str = "", **fields: Any) -> tuple[list[dict[str, Any]], str]:
    """The blocks that a stream adds up to, and its stop_reason."""
    found = typed_events(await ask(server, MESSAGES, use=use, stream=True, **fields))
    found = [event for event in found if event["type"] != "ping"]
    kinds = [event["type"] for event in found]
    same("last events", ["message_delta", "message_stop"], kinds[-2:])
    starts(found[0], server.model(use or "chat"))
    end = found[-2]
    expect(field(field(end, "usage", dict), "output_tokens", int) > 0, "output_tokens above 0", end)
    reason = field(field(end, "delta", dict), "stop_reason", str)
    expect(reason in REASONS, f"stop_reason {', '.join(REASONS)}", reason)
    return in_blocks(found[1:-2]), reason


def starts(event: dict[str, Any], model: str) -> None:
    same("first event", "message_start", event["type"])
    message = field(event, "message", dict)
    for key, value in (("type", "message"), ("role", "assistant"), ("model", model), ("content", [])):
        same(key, value, message.get(key))
    expect(field(message, "id", str), "an id", message)
    expect(message.get("stop_reason") is None, "no stop_reason yet", message)
    field(field(message, "usage", dict), "input_tokens", int)


def in_blocks(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Require blocks that begin and end in turn, and return them with the text of their deltas."""
    found: list[dict[str, Any]] = []
    is_open = False
    for event in events:
        kind = event["type"]
        expect((kind == "content_block_start") != is_open, "blocks that begin and end in turn", event)
        if kind == "content_block_start":
            found.append({**field(event, "content_block", dict), "parts": ""})
            is_open = True
        elif kind == "content_block_delta":
            found[-1]["parts"] += part(found[-1], field(event, "delta", dict))
        else:
            same("type", "content_block_stop", kind)
            is_open = False
        same("index", len(found) - 1, field(event, "index", int))
    expect(found and not is_open, "blocks that end", events)
    return found


def part(block: dict[str, Any], delta: dict[str, Any]) -> str:
    """The text of a delta. Its kind is that of its block."""
    kind = field(delta, "type", str)
    if kind == SIGNATURE:
        return ""
    expect(kind in DELTAS, "a delta of Anthropic's", kind)
    kinds = {"text": "text_delta", "thinking": "thinking_delta", "tool_use": "input_json_delta"}
    same("type of the delta", kinds.get(block.get("type", "")), kind)
    return field(delta, DELTAS[kind], str)


@covers(34, 124)
async def messages_stream_events(server: CheckedServer) -> None:
    found, _ = await streamed(server)
    expect(all(block["parts"] for block in found), "some text in each block", found)


@covers(124)
async def message_streams_end_with_the_true_usage(server: CheckedServer) -> None:
    tokens = field(field(await whole(server, MESSAGES, max_tokens=3), "usage", dict), "input_tokens", int)
    found = typed_events(await ask(server, MESSAGES, max_tokens=3, stream=True))
    ends = [event for event in found if event["type"] == "message_delta"]
    same("count of message_delta", 1, len(ends))
    usage = field(ends[0], "usage", dict)
    same("output_tokens", 3, field(usage, "output_tokens", int))
    same("input_tokens", tokens, field(usage, "input_tokens", int))
    same("stop_reason", "max_tokens", field(field(ends[0], "delta", dict), "stop_reason", str))


@covers(124)
async def message_streams_think_first(server: CheckedServer) -> None:
    fields: dict[str, Any] = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}, **LONGER}
    found, _ = await streamed(server, use="thinking", **fields)
    same("type of the first block", "thinking", found[0]["type"])
    expect(found[0]["parts"], "some thinking", found)


@covers(124)
async def message_streams_use_tools(server: CheckedServer) -> None:
    found, reason = await streamed(server, use="tools", messages=[ASKED], tools=[TOOL], **ROOM)
    used = [block for block in found if block["type"] == "tool_use"]
    if not used:
        raise Skipped(f"{server.model('tools')} did not call the tool")
    same("stop_reason", "tool_use", reason)
    for block in used:
        expect(field(block, "id", str), "an id", block)
        same("name", "get_weather", field(block, "name", str))
        same("input", {}, field(block, "input", dict))
        expect(isinstance(parsed(block["parts"].encode()), dict), "the input as the text of an object", block["parts"])

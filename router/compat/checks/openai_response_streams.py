"""OpenAI's responses: streams."""

from __future__ import annotations

from typing import Any

from vllama_pool.router.compat.checks.check import covers
from vllama_pool.router.compat.checks.openai_responses import (
    ASKED,
    LONGER,
    ROOM,
    TOOL,
    of_type,
    output,
    reasoning,
    text,
)
from vllama_pool.router.compat.checks.v1_requests import RESPONSES, ask, counts
from vllama_pool.router.compat.event_stream import typed_events
from vllama_pool.router.compat.expect import Skipped, expect, field, same
from vllama_pool.router.compat.server import CheckedServer

ENDS = ("response.completed", "response.incomplete")
"""The second is OpenAI's for an answer that was cut off."""
ADDED, DONE = "response.output_item.added", "response.output_item.done"


async def streamed(server: CheckedServer, *, use: str = "", **fields: Any) -> list[dict[str, Any]]:
    """Require events that begin, count and end as they must, and return them."""
    found = typed_events(await ask(server, RESPONSES, use=use, stream=True, **fields))
    kinds = [event["type"] for event in found]
    same("first events", ["response.created", "response.in_progress"], kinds[:2])
    expect(kinds[-1] in ENDS, "response.completed at the end", kinds[-1])
    numbers = [field(event, "sequence_number", int) for event in found]
    expect(numbers == sorted(set(numbers)), "rising sequence_number", numbers)
    for event in (*found[:2], found[-1]):
        response = field(event, "response", dict)
        same("id", found[0]["response"].get("id"), field(response, "id", str))
        same("model", server.model(use or "chat"), field(response, "model", str))
    for event in found:
        if event["type"] in (ADDED, DONE):
            field(event, "item", dict)
    for event in found[:2]:
        same("status", "in_progress", field(event["response"], "status", str))
    return found


def by_item(events: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Require items that begin and end in turn, and return the events of each."""
    found: list[list[dict[str, Any]]] = []
    is_open = False
    for event in events[2:-1]:
        kind = event["type"]
        expect((kind == ADDED) != is_open, f"{'events of the item' if is_open else ADDED}", event)
        if kind == ADDED:
            found.append([])
            is_open = True
        same("output_index", len(found) - 1, field(event, "output_index", int))
        found[-1].append(event)
        if kind == DONE:
            same("id", found[-1][0]["item"].get("id"), field(event["item"], "id", str))
            is_open = False
    expect(not is_open and found, f"{DONE} for each item", events[-1])
    return found


def of_item(events: list[dict[str, Any]], id_: str) -> list[dict[str, Any]]:
    """The events of an item, wherever they are: Ollama does not end a text before a call."""
    return [event for event in events if id_ in (event.get("item_id"), event.get("item", {}).get("id"))]


def deltas(item: list[dict[str, Any]], kind: str) -> str:
    """Require deltas of one kind that add up to the event of their end, and return their text."""
    parts = [event for event in item if event["type"] == f"{kind}.delta"]
    ends = [event for event in item if event["type"] == f"{kind}.done"]
    expect(parts and len(ends) == 1, f"{kind}.delta and one .done", [event["type"] for event in item])
    whole = "".join(field(part, "delta", str) for part in parts)
    key = "arguments" if "arguments" in ends[0] else "text"
    same(key, whole, field(ends[0], key, str))
    same("item_id", item[0]["item"].get("id"), field(ends[0], "item_id", str))
    return whole


@covers(32, 118)
async def responses_stream_events(server: CheckedServer) -> None:
    found = await streamed(server)
    answer = output(found[-1]["response"])
    counts(field(found[-1]["response"], "usage", dict), "input_tokens", "output_tokens")
    same("items", len(answer), len(by_item(found)))
    expect(text(answer) or reasoning(answer), "some text", answer)


@covers(118)
async def responses_stream_the_text_of_a_message(server: CheckedServer) -> None:
    found = await streamed(server, reasoning={"effort": "none"} if await thinks(server) else None)
    messages = [item for item in by_item(found) if item[0]["item"].get("type") == "message"]
    same("count of messages", 1, len(messages))
    kinds = [event["type"] for event in messages[0]]
    same("begin of the message", [ADDED, "response.content_part.added"], kinds[:2])
    ends = ["response.output_text.done", "response.content_part.done", DONE]
    same("end of the message", ends, kinds[-3:])
    same("text", text(output(found[-1]["response"])), deltas(messages[0], "response.output_text"))


async def thinks(server: CheckedServer) -> bool:
    """True if the model for chats can only be one that thinks."""
    return server.models.chat is not None and server.models.chat == server.models.thinking


@covers(118)
async def responses_stream_reasoning_first(server: CheckedServer) -> None:
    found = await streamed(server, use="thinking", reasoning={"effort": "low"}, **LONGER)
    first = by_item(found)[0]
    same("type of the first item", "reasoning", first[0]["item"].get("type"))
    kinds = {event["type"] for event in first}
    summary = "response.reasoning_summary_text.delta" in kinds
    thought = deltas(first, "response.reasoning_summary_text" if summary else "response.reasoning_text")
    same("reasoning", reasoning(output(found[-1]["response"])), thought)


@covers(118)
async def responses_stream_the_arguments_of_calls(server: CheckedServer) -> None:
    found = await streamed(server, use="tools", input=[ASKED], tools=[TOOL], **ROOM)
    calls = of_type(output(found[-1]["response"]), "function_call")
    if not calls:
        raise Skipped(f"{server.model('tools')} did not call the tool")
    begun = [
        event["item"] for event in found if event["type"] == ADDED and event["item"].get("type") == "function_call"
    ]
    same("count of calls", len(calls), len(begun))
    for call, started in zip(calls, begun, strict=True):
        item = of_item(found, field(started, "id", str))
        same("first and last event", [ADDED, DONE], [item[0]["type"], item[-1]["type"]])
        same("arguments", call.get("arguments"), deltas(item, "response.function_call_arguments"))
        same("name", "get_weather", field(item[0]["item"], "name", str))
        same("call_id", call.get("call_id"), field(item[0]["item"], "call_id", str))

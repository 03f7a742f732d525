"""/v1/responses as Ollama answers it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.support.compat.reply import ARGUMENTS, PROMPT_TOKENS, Refused, Reply, chatting, picture, reply, thinks, typed

ITEMS = ("message", "function_call", "function_call_output", "reasoning", "web_search_call")
Events = Iterator[tuple[str, dict[str, Any]]]


def responses(body: Mapping[str, Any]) -> Iterator[Any]:
    typed(body, input=(str, list), stream=bool, temperature=(int, float))
    for item in body["input"] if isinstance(body.get("input"), list) else ():
        valid_item(item)
    on = thinks((body.get("reasoning") or {}).get("effort"))
    format_ = ((body.get("text") or {}).get("format") or {}).get("type")
    chatting(body)
    found = reply(body, body.get("max_output_tokens"), schema=format_ == "json_schema", think=on)
    if body.get("stream"):
        return numbered(response_events(found))
    return iter([response(found, "completed", output(found))])


def valid_item(item: Mapping[str, Any]) -> None:
    kind = item.get("type") or ("message" if "role" in item else "")
    if kind not in ITEMS:
        raise Refused(400, f'unknown input item type: "{kind}"')
    for part in item["content"] if isinstance(item.get("content"), list) else ():
        if part["type"] == "input_file":
            raise Refused(400, "file inputs are not currently supported")
        if part["type"] == "input_image":
            picture(part["image_url"])


def output(found: Reply) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if found.thoughts:
        summary = [{"type": "summary_text", "text": found.thoughts}]
        items.append({"id": "rs_1", "type": "reasoning", "summary": summary, "encrypted_content": found.thoughts})
    if not found.calls:
        text = {"type": "output_text", "text": found.text, "annotations": [], "logprobs": []}
        items.append({"id": "msg_1", "type": "message", "role": "assistant", "content": [text]})
    items += [function_call(index, name) for index, name in enumerate(found.calls)]
    return items


def function_call(index: int, name: str) -> dict[str, Any]:
    ids = {"id": f"fc_{index}", "call_id": f"call_{index}"}
    return {**ids, "type": "function_call", "status": "completed", "name": name, "arguments": ARGUMENTS}


def response(found: Reply, status: str, items: list[Any]) -> dict[str, Any]:
    total = PROMPT_TOKENS + found.tokens
    usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": found.tokens, "total_tokens": total}
    head = {"id": "resp_1", "object": "response", "created_at": 17, "model": found.model, "error": None}
    return {**head, "status": status, "output": items, "usage": usage if items else None}


def numbered(events: Events) -> Iterator[Any]:
    for number, (kind, data) in enumerate(events):
        yield {"type": kind, "sequence_number": number, **data}


def response_events(found: Reply) -> Events:
    begin = response(found, "in_progress", [])
    yield "response.created", {"response": begin}
    yield "response.in_progress", {"response": begin}
    items = output(found)
    for index, item in enumerate(items):
        for kind, data in item_events(found, item):
            yield kind, {"output_index": index, **data}
    yield "response.completed", {"response": response(found, "completed", items)}


def item_events(found: Reply, item: dict[str, Any]) -> Events:
    """Events without their output_index."""
    place = {"item_id": item["id"]}
    key = "text"
    yield "response.output_item.added", {"item": {**item, "status": "in_progress"}}
    if item["type"] == "reasoning":
        kind, parts = "response.reasoning_summary_text", [found.thoughts]
    elif item["type"] == "function_call":
        kind, key, parts = "response.function_call_arguments", "arguments", [ARGUMENTS]
    else:
        kind, parts = "response.output_text", found.words
        yield "response.content_part.added", {**place, "content_index": 0, "part": {"type": "output_text"}}
    for part in parts:
        yield f"{kind}.delta", {**place, "delta": part}
    yield f"{kind}.done", {**place, key: "".join(parts)}
    if item["type"] == "message":
        yield "response.content_part.done", {**place, "content_index": 0, "part": item["content"][0]}
    yield "response.output_item.done", {"item": item}

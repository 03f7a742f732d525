"""Changes that make a server wrong in one way."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from vllama_pool.router.compat.wire import RawResponse

Change = Callable[[RawResponse], RawResponse]


def text(old: str, new: str, count: int = -1) -> Change:
    """Replace a text in the body, such as part of its JSON."""
    return lambda response: replace(response, body=response.body.replace(old.encode(), new.encode(), count))


def objects(change: Callable[[dict[str, Any]], object]) -> Change:
    """Change each object in place, also in streams."""

    def line(data: str) -> str:
        before, brace, rest = data.partition("{")
        if not brace or before not in ("", "data: "):
            return data
        found = json.loads(brace + rest)
        change(found)
        return before + json.dumps(found)

    return lambda response: replace(response, body="\n".join(map(line, response.body.decode().split("\n"))).encode())


def status(old: int, new: int) -> Change:
    return lambda response: replace(response, status=new) if response.status == old else response


def header(name: str, value: str) -> Change:
    def change(response: RawResponse) -> RawResponse:
        return replace(response, headers=(*(pair for pair in response.headers if pair[0] != name), (name, value)))

    return change


def without_header(name: str) -> Change:
    return lambda response: replace(response, headers=tuple(pair for pair in response.headers if pair[0] != name))


def without(*keys: str) -> Change:
    return objects(lambda found: [found.pop(key, None) for key in keys])


def events(change: Callable[[list[str]], list[str]]) -> Change:
    def changed(response: RawResponse) -> RawResponse:
        if not response.body.endswith(b"\n\n"):
            return response
        found = change(response.body.decode().split("\n\n")[:-1])
        return replace(response, body="".join(f"{event}\n\n" for event in found).encode())

    return changed


def without_events(kind: str) -> Change:
    return events(lambda found: [event for event in found if f"event: {kind}\n" not in event])


def in_choices(change: Callable[[dict[str, Any]], object]) -> Change:
    return objects(lambda found: [change(choice) for choice in found.get("choices", ())])


def in_messages(change: Callable[[dict[str, Any]], object]) -> Change:
    """Change the message or the delta of a chat."""
    return in_choices(lambda choice: change(choice.get("message") or choice.get("delta") or {}))


def renamed(old: str, new: str) -> Callable[[dict[str, Any]], object]:
    def change(found: dict[str, Any]) -> None:
        if old in found:
            found[new] = found.pop(old)

    return change


def thinking_aloud(message: dict[str, Any]) -> None:
    thoughts = message.get("reasoning") or message.get("thinking")
    if thoughts:
        message["content"] = f"<think>{thoughts}</think>{message.get('content', '')}"


def arguments_as_object(message: dict[str, Any]) -> None:
    for call in message.get("tool_calls", ()):
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])


def calls_without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda message: [call.pop(key, None) for call in message.get("tool_calls", ())]


def vectors(change: Callable[[Any], Any]) -> Change:
    def each(found: dict[str, Any]) -> None:
        for entry in found.get("data", ()):
            entry["embedding"] = change(entry["embedding"])

    return objects(each)


def big_endian(vector: Any) -> Any:
    if not isinstance(vector, str):
        return vector
    data = base64.b64decode(vector)
    numbers = struct.unpack(f"<{len(data) // 4}f", data)
    return base64.b64encode(struct.pack(f">{len(numbers)}f", *numbers)).decode()


def unordered(found: dict[str, Any]) -> None:
    for entry, vector in zip(
        found.get("data", ()), [each["embedding"] for each in found.get("data", ())][::-1], strict=True
    ):
        entry["embedding"] = vector


def at_end(found: dict[str, Any]) -> None:
    """Count tokens of a stream as an estimate."""
    if found.get("type") == "message_delta":
        found["usage"]["input_tokens"] = 3


def within(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects in a value, at any depth."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for each in value if isinstance(value, list) else ():
        yield from within(each)


def retyped(key: str, value: object) -> Change:
    """Replace the value of a key, wherever it is."""

    def change(found: dict[str, Any]) -> None:
        for each in list(within(found)):
            if key in each:
                each[key] = value

    return objects(change)

"""Server-sent events, the streams of OpenAI's and Anthropic's APIs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllama_pool.router.compat.expect import Differs, expect, field, parsed, same, status
from vllama_pool.router.compat.wire import RawResponse

EVENTS = "text/event-stream"
DONE = "[DONE]"


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    """Empty if the stream names no events."""
    data: str


def events(response: RawResponse) -> list[Event]:
    """Require a stream of whole events, and return them. Comments are skipped."""
    status(response, 200)
    kind = response.header("content-type") or ""
    same("Content-Type", EVENTS, kind.partition(";")[0].strip())
    expect(response.body.endswith(b"\n\n"), "an empty line at the end", response.body[-40:])
    blocks = response.body[:-2].decode("utf-8", "backslashreplace").split("\n\n")
    return [_event(block) for block in blocks if not block.startswith(":")]


def _event(block: str) -> Event:
    fields: dict[str, str] = {}
    for line in block.split("\n"):
        key, separator, value = line.partition(":")
        if not separator or key in fields or key not in ("event", "data"):
            raise Differs(f"expected an event; got {block[:80]}")
        fields[key] = value.removeprefix(" ")
    return Event(fields.get("event", ""), fields.get("data", ""))


def chunks(response: RawResponse) -> list[dict[str, Any]]:
    """Require OpenAI's stream: objects, then [DONE]."""
    found = events(response)
    expect(found and found[-1].data == DONE, f"{DONE} as the last event", found[-1].data if found else "")
    return [_object(event) for event in found[:-1]]


def typed_events(response: RawResponse) -> list[dict[str, Any]]:
    """Require the stream of Responses or Messages: objects with the event's name as their type."""
    found = []
    for event in events(response):
        data = _object(event)
        same("type", event.name, field(data, "type", str))
        expect(event.name != "error", "no error", data)
        found.append(data)
    expect(found, "some events", response.body)
    return found


def _object(event: Event) -> dict[str, Any]:
    found = parsed(event.data.encode())
    expect(isinstance(found, dict), "an object in each event", found)
    expect("error" not in found or found["error"] is None, "no error", found)
    return dict(found)

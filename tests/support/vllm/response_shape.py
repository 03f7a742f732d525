"""The shape of an HTTP response, which conforming servers share.

Text becomes "text" and numbers become "number", except for the keys in LITERAL. Lists become their elements' different
shapes, and equal stream events in a row become one. Events of several choices are in the order of the choices.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from typing import Any

import httpx

LITERAL = frozenset(("object", "role", "finish_reason", "type", "code", "param", "index", "status"))
BY_TOKEN = frozenset(("top_logprobs", "prompt_logprobs"))
"""Keys of objects with a field per token."""
HEADERS = ("content-type", "transfer-encoding", "allow", "retry-after")
"""Headers that matter to clients."""
FREE = "free"
"""Matches anything."""


def of_value(value: Any, key: str = "") -> Any:
    """Return the shape of a JSON value."""
    if value is None or isinstance(value, bool) or (key in LITERAL and isinstance(value, str | int)):
        return value
    if isinstance(value, dict):
        return {name: of_value(part, name) for name, part in value.items()}
    if isinstance(value, list):
        shapes: list[Any] = []
        for part in value:
            by_token = key in BY_TOKEN and isinstance(part, dict) and "token" not in part
            shape = {"each token": of_value(next(iter(part.values())))} if by_token else of_value(part)
            if shape not in shapes:
                shapes.append(shape)
        return shapes
    return "text" if isinstance(value, str) else "number"


def of_error(message: str) -> str:
    """Replace numbers, and the details of validation errors."""
    if is_validation_error(message):
        return "N validation errors"
    return re.sub(r"\d+(\.\d+)?", "N", message)


def is_validation_error(message: str) -> bool:
    return re.match(r"\d+ validation errors?:", message) is not None


def of_document(value: Any) -> Any:
    """Return the shape of a JSON body. Errors keep their text."""
    shape = of_value(value)
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        shape["error"]["message"] = of_error(error["message"])
        if is_validation_error(error["message"]):
            shape["error"]["param"] = _field(error["param"])
    elif isinstance(error, str) or (isinstance(value, dict) and "detail" in value):
        return value
    return shape


def of_stream(text: str) -> list[Any]:
    """Return the shapes of a stream's events without repetitions."""
    parts = text.split("\n\n")
    shapes: list[Any] = [] if parts[-1] == "" else ["NOT ENDED BY A BLANK LINE"]
    found = [shape for part in parts[:-1] for shape in _of_event(part)]
    for shape in sorted(found, key=_choice):
        if not shapes or shapes[-1] != shape:
            shapes.append(shape)
    return shapes


def of_response(response: httpx.Response) -> dict[str, Any]:
    headers: dict[str, Any] = {name: response.headers[name] for name in HEADERS if name in response.headers}
    headers["content-length"] = "content-length" in response.headers
    if headers.get("content-type", "").startswith("text/event-stream"):
        body: Any = of_stream(response.text)
    elif headers.get("content-type") == "application/json" and response.text:
        body = of_document(response.json())
    else:
        body = "text" if response.text else ""
    return {"status": response.status_code, "headers": headers, "body": body}


def difference(real: Any, simulated: Any) -> str:
    """Return the differing lines, or ""."""
    left, right = (json.dumps(shape, indent=1, sort_keys=True).splitlines() for shape in (real, simulated))
    return "\n".join(difflib.unified_diff(left, right, "real vLLM", "simulated", lineterm="", n=4))


def assert_equal(real: Any, simulated: Any, *, request: str = "") -> None:
    """Raises AssertionError with the differing lines."""
    found = difference(real, simulated)
    assert not found, f"{request}\n{found}"


def _of_event(text: str) -> list[Any]:
    if text == "data: [DONE]":
        return ["DONE"]
    found = re.fullmatch(r"(?:event: (\S+)\n)?data: (.*)", text)
    if found is None:
        return [f"NO EVENT: {text}"]
    shapes = [of_document(event) for event in _split(json.loads(found[2]))]
    return [{"event": found[1], "data": shape} for shape in shapes] if found[1] else shapes


def _choice(shape: Any) -> float:
    """Return the index of an event's choice. Events without a choice come last."""
    choices = shape.get("choices") if isinstance(shape, dict) else None
    return float(choices[0]["index"]) if choices else math.inf


def _split(event: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events that vLLM joins into this one where its API server falls behind the engine.

    A joined delta can hide an empty one, so empty ones are left out.
    """
    choices = event.get("choices")
    if not choices:
        return [event]
    [choice] = choices
    running, last = (_split_chat if "delta" in choice else _split_completion)(choice)
    if choice["finish_reason"] is None:
        return [{**event, "choices": [part]} for part in running]
    earlier = {key: value for key, value in event.items() if key != "system_fingerprint"}
    return [*({**earlier, "choices": [part]} for part in running), {**event, "choices": [last]}]


def _split_chat(choice: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return one choice for each part of the delta, and one for the finish reason."""
    running = {key: value for key, value in choice.items() if key != "stop_reason"}
    parts = [{**running, "delta": delta, "finish_reason": None} for delta in _split_delta(choice["delta"])]
    return parts, {**choice, "delta": {}}


def _split_completion(choice: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the prompt's ids if there are any and the text, and one choice for the finish reason."""
    last = {**choice, "prompt_token_ids": None}
    text = {**last, "finish_reason": None, "stop_reason": None}
    ids = choice["prompt_token_ids"]
    return ([text] if ids is None else [{**text, "prompt_token_ids": ids}, text]), last


def _split_delta(delta: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one delta each for the thinking, the content, and the name and the arguments of each tool call."""
    calls = delta.get("tool_calls") or ()
    hidden = delta.get("reasoning", "") is None  # each delta has it under include_reasoning: false
    if hidden or not delta.keys() <= {"reasoning", "content", "tool_calls"}:
        return [delta]
    parts = [{key: delta[key]} for key in ("reasoning", "content") if key in delta and not (calls and not delta[key])]
    for call in calls:
        function = call["function"]
        arguments = {"index": call["index"], "function": {"arguments": function.get("arguments")}}
        name = {**call, "function": {key: value for key, value in function.items() if key != "arguments"}}
        found = ([name] if "name" in function else []) + ([arguments] if "arguments" in function else [])
        parts += [{"content": None, "tool_calls": [part]} for part in found]
    return parts


def _field(param: str | None) -> str | None:
    """Return the field of a validation error without its elements."""
    return param and ".".join(part for part in param.split(".")[:2] if not part.isdigit())

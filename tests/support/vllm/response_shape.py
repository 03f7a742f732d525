"""The shape of an HTTP response, which conforming servers share.

Text becomes "text" and numbers become "number", except for the keys in LITERAL. Lists become their elements' different
shapes, and equal stream events in a row become one.
"""

from __future__ import annotations

import difflib
import json
import re
from typing import Any

import httpx

LITERAL = frozenset(("object", "role", "finish_reason", "type", "code", "param", "index"))
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
            by_token = key == "top_logprobs" and isinstance(part, dict) and "token" not in part
            shape = {"each token": "number"} if by_token else of_value(part)
            if shape not in shapes:
                shapes.append(shape)
        return shapes
    return "text" if isinstance(value, str) else "number"


def of_error(message: str) -> str:
    """Replace numbers, and the details of validation errors."""
    if "validation error" in message:
        return re.sub(r"^\d+ validation errors?:\n(?s:.*)", "N validation errors", message)
    return re.sub(r"\d+(\.\d+)?", "N", message)


def of_document(value: Any) -> Any:
    """Return the shape of a JSON body. Errors keep their text."""
    shape = of_value(value)
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        shape["error"]["message"] = of_error(error["message"])
        if "validation error" in error["message"]:
            shape["error"]["param"] = _field(error["param"])
    elif isinstance(error, str) or (isinstance(value, dict) and "detail" in value):
        return value
    return shape


def of_stream(text: str) -> list[Any]:
    """Return the shapes of a stream's events without repetitions."""
    parts = text.split("\n\n")
    shapes: list[Any] = [] if parts[-1] == "" else ["NOT ENDED BY A BLANK LINE"]
    for part in parts[:-1]:
        if part == "data: [DONE]":
            found: list[Any] = ["DONE"]
        elif part.startswith("data: "):
            found = [of_document(event) for event in _split(json.loads(part.removeprefix("data: ")))]
        else:
            found = [f"NO EVENT: {part}"]
        shapes += [shape for shape in found if not shapes or shapes[-1] != shape]
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


def _split(event: dict[str, Any]) -> list[dict[str, Any]]:
    """Split an event that has both the last text and the finish reason."""
    choices = event.get("choices")
    if not choices or choices[0].get("finish_reason") is None:
        return [event]
    choice = choices[0]
    if not choice.get("delta"):
        return [event]
    text = {**event, "choices": [{**choice, "finish_reason": None}]}
    text["choices"][0].pop("stop_reason", None)
    text.pop("system_fingerprint", None)
    return [text, {**event, "choices": [{**choice, "delta": {}}]}]


def _field(param: str | None) -> str | None:
    """Return the field of a validation error without its elements."""
    return param and ".".join(part for part in param.split(".")[:2] if not part.isdigit())

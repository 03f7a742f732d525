"""Validation of the shape of a request, as by FastAPI and pydantic."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vllama_pool.workers.simulated.errors import ApiError

_REPORTED_ERRORS = 10
_SHOWN_CHARACTERS = 200


def load(body: bytes, content_type: str) -> dict[str, Any]:
    """Raises ApiError."""
    if content_type.split(";")[0].strip().lower() != "application/json":
        raise malformed("Unsupported Media Type: Only 'application/json' is allowed", None)
    if not body:
        raise malformed("{'type': 'missing', 'loc': 'body', 'msg': 'Field required', 'input': 'None'}", "body")
    try:
        data = json.loads(body)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        position = error.pos if isinstance(error, json.JSONDecodeError) else error.start
        cause = error.msg if isinstance(error, json.JSONDecodeError) else error.reason
        item = {
            "type": "json_invalid",
            "loc": f"body.{position}",
            "msg": "JSON decode error",
            "input": "<dict of 0 items>",
            "ctx": {"error": cause},
        }
        raise malformed(str(item), f"body.{position}") from error
    if not isinstance(data, dict):
        item = {
            "type": "model_attributes_type",
            "loc": "body",
            "msg": "Input should be a valid dictionary or object to extract fields from",
            "input": _shown(data),
        }
        raise malformed(str(item), "body")
    return data


def malformed(item: str, param: str | None, count: int = 1) -> ApiError:
    """Return the error of bodies that do not have the shape."""
    label = "error" if count == 1 else "errors"
    return ApiError(f"{count} validation {label}:\n  {item}", kind="Bad Request", param=param)


def validate(shape: Any, data: Any, source: str = "body") -> Any:
    """Raises ApiError."""
    try:
        return _adapter(shape).validate_python(data)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        items = [_problem(dict(problem), source) for problem in problems[:_REPORTED_ERRORS]]
        if len(problems) > _REPORTED_ERRORS:
            items.append(f"...and {len(problems) - _REPORTED_ERRORS} more errors")
        raise malformed("\n  ".join(items), _location(problems[0]["loc"], source), len(problems)) from error


def _problem(problem: dict[str, Any], source: str) -> str:
    item = {"type": problem["type"], "loc": _location(problem["loc"], source), "msg": problem["msg"]}
    item["input"] = _shown(problem["input"])
    if "ctx" in problem:
        item["ctx"] = problem["ctx"]
    return str(item)


_INTERNAL = re.compile(
    r"[\[\]{}()]|^(str|int|float|bool|list|dict|none|TokenizeText|TokenizeChat|_Score[A-Z]\w+|assistant|other)$"
)


def _location(path: tuple[int | str, ...], source: str) -> str:
    """Leave out pydantic's union branches."""
    return ".".join([source, *(str(part) for part in path if not _INTERNAL.search(str(part)))])


def _shown(value: object) -> str:
    if isinstance(value, list | dict):
        return f"<{type(value).__name__} of {len(value)} items>"
    text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...[truncated]"


@functools.cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)

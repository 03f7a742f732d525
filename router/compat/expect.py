"""Assertions on responses. A failure is one line: what was expected, and what was received."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from vllama_pool.router.compat.wire import RawResponse

MAX_SHOWN = 120
"""Characters shown of a received value."""
T = TypeVar("T")

JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)\Z")


class Differs(Exception):
    """`str()` says what was expected and what was received."""


class Skipped(Exception):
    """`str()` says why the check does not apply to this server."""


def brief(value: object) -> str:
    if isinstance(value, str):
        text = value
    elif isinstance(value, bytes):
        text = value.decode("utf-8", "backslashreplace")
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split(" ")).replace("\n", "\\n")
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def expect(holds: object, expected: str, actual: object) -> None:
    if not holds:
        raise Differs(f"expected {expected}; got {brief(actual)}")


def same(what: str, expected: object, actual: object) -> None:
    """Require equal values of equal types: 1 is not True."""
    expect(type(actual) is type(expected) and actual == expected, f"{what} {brief(expected)}", actual)


def status(response: RawResponse, expected: int) -> None:
    received = f"{response.status} {brief(response.body)}".strip()
    expect(response.status == expected, f"status {expected}", received)


def parsed(data: bytes, what: str = "JSON") -> Any:
    try:
        return json.loads(data)
    except ValueError:
        raise Differs(f"expected {what}; got {brief(data)}") from None


def json_object(response: RawResponse, *, code: int = 200) -> dict[str, Any]:
    """Require this status and a JSON object, and return the object."""
    status(response, code)
    found = parsed(response.body)
    expect(isinstance(found, dict), "a JSON object", found)
    return dict(found)


def error(response: RawResponse, code: int, text: str | re.Pattern[str]) -> None:
    """Require exactly `{"error": text}`."""
    pattern = text if isinstance(text, str) else f"/{text.pattern}/"
    expected = f"{code} {brief(pattern)}"
    try:
        found = json.loads(response.body)
    except ValueError:
        found = None
    message = found.get("error") if isinstance(found, dict) else None
    matches = isinstance(message, str) and (
        message == text if isinstance(text, str) else text.search(message) is not None
    )
    actual = message if isinstance(message, str) else response.body.decode("utf-8", "replace")
    expect(response.status == code and matches, expected, f"{response.status} {actual}".strip())
    expect(set(found or ()) == {"error"}, "the key error alone", found)


def content_type(response: RawResponse, expected: str) -> None:
    same("Content-Type", expected, response.header("content-type") or "")


def field(data: Mapping[str, Any], key: str, kind: type[T], where: str = "") -> T:
    """Require an object with a value of this type, and return the value."""
    expect(isinstance(data, Mapping), f"an object with {where}{key}", data)
    if key not in data:
        raise Differs(f"expected {where}{key}; got {brief(dict(data))}")
    value = data[key]
    matches = type(value) is kind or (kind is float and type(value) is int)
    expect(matches, f"{where}{key} as {_NAMES.get(kind, kind.__name__)}", value)
    return value  # type: ignore[no-any-return]  # checked above


def objects(data: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Require a list of objects, and return it. Null and absent are an empty one."""
    found = data.get(key)
    holds = found is None or (isinstance(found, list) and all(isinstance(each, dict) for each in found))
    expect(holds, f"{key} as a list of objects", found)
    return found or []


_NAMES: dict[type, str] = {str: "a text", int: "an integer", float: "a number", bool: "a boolean", list: "a list"}


def lacks(data: Mapping[str, Any], *keys: str) -> None:
    for key in keys:
        expect(key not in data, f"no {key}", {key: data.get(key)})


def timestamp(text: str, *, utc: bool = False) -> None:
    """Require RFC 3339, up to nine fractional digits, no trailing zeros (R041)."""
    matches = TIME.match(text) and not re.search(r"\.\d*0(Z|[+-])", text)
    expect(matches and (not utc or text.endswith("Z")), "a time as Go writes it" + (", in UTC" if utc else ""), text)


def lines(response: RawResponse) -> list[dict[str, Any]]:
    """Require NDJSON (R044), and return its objects."""
    status(response, 200)
    content_type(response, NDJSON)
    expect(response.body.endswith(b"\n"), "a newline at the end", response.body[-40:])
    found = [parsed(line, "a line of JSON") for line in response.body[:-1].split(b"\n")]
    for line in found:
        expect(isinstance(line, dict), "an object in each line", line)
    return found

"""What checks say about answers: that they differ, in few words. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from vllama_pool.router.compat.wire import Reply

LONGEST = 120
"""Characters of what came that are shown."""
T = TypeVar("T")

JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)\Z")


class Differs(Exception):
    """The server is not as Ollama is. `str()` says what was expected and what came."""


class Skipped(Exception):
    """The check says nothing about this server. `str()` says why."""


def brief(value: object) -> str:
    """What came, short enough for a table."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, bytes):
        text = value.decode("utf-8", "backslashreplace")
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split(" ")).replace("\n", "\\n")
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def expect(holds: object, expected: str, actual: object) -> None:
    """Raises Differs where it does not hold."""
    if not holds:
        raise Differs(f"expected {expected}; got {brief(actual)}")


def same(what: str, expected: object, actual: object) -> None:
    """Equal, and of one type: 1 is not true."""
    expect(type(actual) is type(expected) and actual == expected, f"{what} {brief(expected)}", actual)


def status(reply: Reply, wanted: int) -> None:
    said = f"{reply.status} {brief(reply.body)}".strip()
    expect(reply.status == wanted, f"status {wanted}", said)


def parsed(data: bytes, what: str = "JSON") -> Any:
    try:
        return json.loads(data)
    except ValueError:
        raise Differs(f"expected {what}; got {brief(data)}") from None


def an_object(reply: Reply, *, wanted: int = 200) -> dict[str, Any]:
    """The JSON object that a reply is."""
    status(reply, wanted)
    found = parsed(reply.body)
    expect(isinstance(found, dict), "a JSON object", found)
    return dict(found)


def error(reply: Reply, wanted: int, text: str | re.Pattern[str]) -> None:
    """`{"error": text}` with this status, and nothing else in it."""
    shown = text if isinstance(text, str) else f"/{text.pattern}/"
    expected = f"{wanted} {brief(shown)}"
    try:
        found = json.loads(reply.body)
    except ValueError:
        found = None
    said = found.get("error") if isinstance(found, dict) else None
    right = isinstance(said, str) and (said == text if isinstance(text, str) else text.search(said) is not None)
    actual = said if isinstance(said, str) else reply.body.decode("utf-8", "replace")
    expect(reply.status == wanted and right, expected, f"{reply.status} {actual}".strip())
    expect(set(found or ()) == {"error"}, "the key error alone", found)


def content_type(reply: Reply, wanted: str) -> None:
    same("Content-Type", wanted, reply.header("content-type") or "")


def take(data: Mapping[str, Any], key: str, kind: type[T], where: str = "") -> T:
    """A key's value, of this type."""
    if key not in data:
        raise Differs(f"expected {where}{key}; got {brief(dict(data))}")
    value = data[key]
    right = type(value) is kind or (kind is float and type(value) is int)
    expect(right, f"{where}{key} as {_NAMES.get(kind, kind.__name__)}", value)
    return value  # type: ignore[no-any-return]  # looked at just now


_NAMES: dict[type, str] = {str: "a text", int: "an integer", float: "a number", bool: "a boolean", list: "a list"}


def lacks(data: Mapping[str, Any], *keys: str) -> None:
    for key in keys:
        expect(key not in data, f"no {key}", {key: data.get(key)})


def a_time(text: str, *, utc: bool = False) -> None:
    """RFC 3339 with up to nine digits, no zero at their end (R041)."""
    right = TIME.match(text) and not re.search(r"\.\d*0(Z|[+-])", text)
    expect(right and (not utc or text.endswith("Z")), "a time as Go writes it" + (", in UTC" if utc else ""), text)


def lines(reply: Reply) -> list[dict[str, Any]]:
    """The objects of an NDJSON stream (R044)."""
    status(reply, 200)
    content_type(reply, NDJSON)
    expect(reply.body.endswith(b"\n"), "a newline at the end", reply.body[-40:])
    found = [parsed(line, "a line of JSON") for line in reply.body[:-1].split(b"\n")]
    for line in found:
        expect(isinstance(line, dict), "an object in each line", line)
    return found

"""Reading JSON as Go's encoding/json does, and complaining in its words (R039, R150-R152).

Go matches keys regardless of case, ignores unknown ones, takes null for absent, lets the last of duplicate
keys win, ignores what follows the first value, and puts U+FFFD for broken text. Requests that are spelled
exactly never come here: this is the slow path, and the source of error texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from vllama_pool.router.errors import BadRequest

MAX_DEPTH = 10_000
MOST_SCANNED = 16 * 1024
"""Characters of a body that is no JSON whose fault is named in exactly Go's words."""
_ROUGHLY = {
    "Expecting value": "looking for beginning of value",
    "Expecting property name": "looking for beginning of object key string",
    "Expecting ':'": "after object key",
    "Expecting ','": "after array element",
}
_SPACE = re.compile(r"[ \t\r\n]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_DIGITS = re.compile(r"[0-9]+")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class GoType:
    """What a field of Ollama's request types takes. `kinds` are JSON's; none means anything."""

    name: str
    kinds: frozenset[str] = frozenset()
    item: GoType | None = None
    fields: Mapping[str, GoType] = field(default_factory=dict)


def _scalar(name: str, *kinds: str) -> GoType:
    return GoType(name, frozenset(kinds))


ANY = GoType("interface {}")
STRING = _scalar("string", "string")
BOOL = _scalar("bool", "bool")
INT = _scalar("int", "number")
OBJECT = _scalar("map[string]interface {}", "object")


def list_of(name: str, item: GoType) -> GoType:
    return GoType(name, frozenset({"array"}), item=item)


def struct(name: str, /, **fields: GoType) -> GoType:
    return GoType(name, frozenset({"object"}), fields=fields)


T = TypeVar("T")


def decode(body: bytes, decoder: msgspec.json.Decoder[T], go: GoType) -> T:
    """A body straight into the decoder's type or, where it is not spelled exactly, as `rewrite` gives it.

    Raises BadRequest.
    """
    try:
        request = decoder.decode(body)
        if not body.isascii():
            body.decode()  # what is kept raw was not looked at
        return request
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        exact = rewrite(body, go)
    try:
        return decoder.decode(exact)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(str(error)) from None


def rewrite(body: bytes, go: GoType) -> bytes:
    """The body with keys spelled as in `go` and without nulls and unknown keys.

    Raises BadRequest with Go's text for what Go refuses.
    """
    value = _parse(body)
    root = go.name.removeprefix("api.")
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise BadRequest(f"json: cannot unmarshal {_kind(value)} into Go value of type {go.name}")
    try:
        text = json.dumps(_normalise(value, go, root, ""), ensure_ascii=False)
    except RecursionError:
        raise BadRequest("exceeded max depth") from None
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text).encode()


def _parse(body: bytes) -> Any:
    text = body.decode("utf-8", "replace")
    space = _SPACE.match(text)
    start = space.end() if space else 0
    if start == len(text):
        raise BadRequest("missing request body")
    decoder = json.JSONDecoder(
        object_pairs_hook=_last_wins, parse_float=_float, parse_int=_int, parse_constant=_constant
    )
    try:
        return decoder.raw_decode(text, start)[0]
    except RecursionError:
        raise BadRequest((_exact(text) and syntax_error(text)) or "exceeded max depth") from None
    except json.JSONDecodeError as error:
        raise BadRequest((_exact(text) and syntax_error(text)) or _roughly(error)) from None
    except ValueError as error:
        raise BadRequest((_exact(text) and syntax_error(text)) or str(error)) from None


def _exact(text: str) -> bool:
    """Whether it is worth the time to find Go's own words: a scanner in Python must not hold up everybody."""
    return len(text) <= MOST_SCANNED


def _roughly(error: json.JSONDecodeError) -> str:
    """Go's words as far as Python's tell the place."""
    if error.pos >= len(error.doc) or error.msg.startswith("Unterminated"):
        return "unexpected EOF"
    where = next((words for start, words in _ROUGHLY.items() if error.msg.startswith(start)), "in string literal")
    return f"invalid character {_quoted(error.doc[error.pos])} {where}"


def _last_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Unlike a plain dict, a repeated key also takes the later place, so that last wins over other cases."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        result.pop(key, None)
        result[key] = value
    return result


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise BadRequest(f"json: cannot unmarshal number {text} into Go value of type float64")
    return value


def _int(text: str) -> int | float:
    return int(text) if len(text) < 300 else _float(text)


def _constant(text: str) -> Any:
    raise ValueError(text)


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "string"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    return "array" if isinstance(value, list) else "object"


def _normalise(value: Any, go: GoType, root: str, path: str) -> Any:
    kind = _kind(value)
    if go.kinds and kind not in go.kinds:
        raise BadRequest(f"json: cannot unmarshal {kind} into Go struct field {root}.{path} of type {go.name}")
    if go is INT and isinstance(value, float) and not value.is_integer():
        raise BadRequest(f"json: cannot unmarshal number {value} into Go struct field {root}.{path} of type int")
    if go is INT:
        return int(value)
    if go.item is not None:
        return [_normalise(item, go.item, root, path) for item in value if item is not None]
    if go.fields:
        return _normalise_fields(value, go, root, path)
    return value


def _normalise_fields(value: dict[str, Any], go: GoType, root: str, path: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, item in value.items():
        name = key if key in go.fields else key.casefold()
        known = go.fields.get(name)
        if known is not None and item is not None:
            result[name] = _normalise(item, known, root, f"{path}.{name}" if path else name)
    return result


def syntax_error(text: str) -> str:
    """Go's words for what is wrong in the first JSON value of a text; "" if nothing is."""
    try:
        _Scanner(text).value()
    except _Syntax as error:
        return str(error)
    return ""


class _Syntax(Exception):
    pass


class _Scanner:
    """Go's JSON scanner, as far as its error texts tell its states apart. No recursion: depth is a stack."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def value(self) -> None:
        stack: list[str] = []
        state = "value"
        while True:
            char = self._next()
            if state in ("key", "first key"):
                state = self._key(char, state, stack)
            elif state in ("value", "first element"):
                state = self._value(char, state, stack)
            else:
                state = self._after(char, stack)
            if state == "after" and not stack:
                return

    def _value(self, char: str, state: str, stack: list[str]) -> str:
        if state == "first element" and char == "]":
            return self._close(stack)
        if char in "{[":
            self._at += 1
            stack.append(char)
            if len(stack) > MAX_DEPTH:
                raise _Syntax("exceeded max depth")
            return "first key" if char == "{" else "first element"
        if char == '"':
            self._string()
        elif char in "-0123456789":
            self._number()
        elif char in "tfn":
            self._literal({"t": "true", "f": "false", "n": "null"}[char])
        else:
            raise self._invalid("looking for beginning of value")
        return "after"

    def _key(self, char: str, state: str, stack: list[str]) -> str:
        if state == "first key" and char == "}":
            return self._close(stack)
        if char != '"':
            raise self._invalid("looking for beginning of object key string")
        self._string()
        if self._next() != ":":
            raise self._invalid("after object key")
        self._at += 1
        return "value"

    def _after(self, char: str, stack: list[str]) -> str:
        opened = stack[-1]
        if char == ",":
            self._at += 1
            return "key" if opened == "{" else "value"
        if char == ("}" if opened == "{" else "]"):
            return self._close(stack)
        raise self._invalid("after object key:value pair" if opened == "{" else "after array element")

    def _close(self, stack: list[str]) -> str:
        self._at += 1
        stack.pop()
        return "after"

    def _next(self) -> str:
        space = _SPACE.match(self._text, self._at)
        if space:
            self._at = space.end()
        return self._here()

    def _here(self) -> str:
        if self._at >= len(self._text):
            raise _Syntax("unexpected EOF")
        return self._text[self._at]

    def _invalid(self, where: str) -> _Syntax:
        return _Syntax(f"invalid character {_quoted(self._text[self._at])} {where}")

    def _string(self) -> None:
        self._at += 1
        while True:
            plain = _PLAIN.match(self._text, self._at)
            if plain:
                self._at = plain.end()
            char = self._here()
            if char == '"':
                self._at += 1
                return
            if char != "\\":
                raise self._invalid("in string literal")
            self._at += 1
            self._escape()

    def _escape(self) -> None:
        char = self._here()
        if char != "u":
            if char not in 'bfnrt\\/"':
                raise self._invalid("in string escape code")
            self._at += 1
            return
        for _ in range(4):
            self._at += 1
            if self._here() not in "0123456789abcdefABCDEF":
                raise self._invalid("in \\u hexadecimal character escape")
        self._at += 1

    def _number(self) -> None:
        if self._here() == "-":
            self._at += 1
        if self._here() == "0":
            self._at += 1
        else:
            self._digits("in numeric literal")
        if self._text[self._at : self._at + 1] == ".":
            self._at += 1
            self._digits("after decimal point in numeric literal")
        if self._text[self._at : self._at + 1] in ("e", "E"):
            self._at += 1
            if self._here() in "+-":
                self._at += 1
            self._digits("in exponent of numeric literal")

    def _digits(self, where: str) -> None:
        self._here()
        digits = _DIGITS.match(self._text, self._at)
        if digits is None:
            raise self._invalid(where)
        self._at = digits.end()

    def _literal(self, word: str) -> None:
        for expected in word:
            if self._here() != expected:
                raise self._invalid(f"in literal {word} (expecting '{expected}')")
            self._at += 1


def _quoted(char: str) -> str:
    """Go quotes the offending byte, not the character."""
    if char == "'":
        return "'\\''"
    if char == '"':
        return "'\"'"
    byte = chr(char.encode("utf-8", "surrogatepass")[0])
    named = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\v": "\\v"}
    if byte in named:
        return f"'{named[byte]}'"
    if byte < " " or byte == "\x7f":
        return f"'\\x{ord(byte):02x}'"
    return f"'{byte}'"

"""Lenient JSON decoding, as in Go's encoding/json (R039, R150-R152).

Go matches keys in any case, ignores unknown keys and trailing data, treats null as absent, uses the last of duplicate
keys, and replaces invalid UTF-8. Bodies that msgspec can decode skip the normalisation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect

from vllama_pool.router.errors import BadRequest

_SYNTAX = {
    "Expecting value": "looking for beginning of value",
    "Expecting property name": "looking for beginning of object key string",
    "Illegal trailing comma": "looking for beginning of value",
    "Expecting ':'": "after object key",
    "Expecting ','": "after object key:value pair",
    "Invalid \\": "in string escape code",
    "Invalid control": "in string literal",
}
"""Go's text by the beginning of Python's."""
_SPACE = re.compile(r"[ \t\r\n]*")
_MIN_INT, _MAX_INT = -(2**63), 2**63 - 1
_ZERO: Mapping[str, type] = {"string": str, "bool": bool, "number": int, "array": list, "object": dict}
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class GoType:
    name: str
    kind: str = ""
    """Accepted JSON type; "" for any."""
    item: GoType | None = None
    """The type of the elements of a list or map."""
    fields: Mapping[str, GoType] = field(default_factory=dict)


def go_type(struct: type[msgspec.Struct]) -> GoType:
    """Derive from a struct. The name is "api." and the struct's, or `GO_NAME`.

    A Raw field accepts objects if it is `named`, else anything.
    """
    return _go_type(inspect.type_info(struct), "")


def named(go_name: str) -> msgspec.Meta:
    """Annotate a field whose Go type has its own name."""
    return msgspec.Meta(extra={"go": go_name})


def _go_type(info: inspect.Type, name: str) -> GoType:
    match info:
        case inspect.Metadata(type=inner, extra=extra):
            return _go_type(inner, (extra or {}).get("go", name))
        case inspect.UnionType(types=types):
            (inner,) = (each for each in types if not isinstance(each, inspect.NoneType))
            return _go_type(inner, name)
        case inspect.StrType():
            return GoType("string", "string")
        case inspect.BoolType():
            return GoType("bool", "bool")
        case inspect.IntType():
            return GoType("int", "number")
        case inspect.RawType() if name:
            return GoType(name, "object")
        case inspect.DictType(value_type=value):
            go = _go_type(value, "")
            return GoType("map[string]" + go.name, "object", item=go if go.kind else None)
        case inspect.ListType(item_type=item):
            go = _go_type(item, "")
            return GoType(name or "[]" + go.name, "array", item=go)
        case inspect.StructType(cls=struct, fields=fields):
            known = {each.encode_name: _go_type(each.type, "") for each in fields}
            return GoType(getattr(struct, "GO_NAME", "api." + struct.__name__), "object", fields=known)
    return GoType("interface {}")


T = TypeVar("T", bound=msgspec.Struct)


class BodyDecoder(Generic[T]):
    """`dec_hook` decodes custom types, or raises ValueError with Ollama's text."""

    def __init__(self, struct: type[T], dec_hook: Callable[[type, Any], Any] | None = None) -> None:
        self.type = go_type(struct)
        self._decode = msgspec.json.Decoder(struct, dec_hook=dec_hook).decode

    def decode(self, body: bytes) -> T:
        try:
            request = self._decode(body)
            if not body.isascii():
                body.decode()  # msgspec does not validate Raw fields
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self.decode_leniently(body)
        return request

    def decode_leniently(self, body: bytes) -> T:
        """Raises BadRequest."""
        exact = normalised(body, self.type)
        try:
            return self._decode(exact)
        except RecursionError:
            raise BadRequest("exceeded max depth") from None
        except msgspec.DecodeError as error:
            hook = error.__cause__
            raise BadRequest(str(hook) if hook else f"json: cannot unmarshal into {self.type.name}") from None


def normalised(body: bytes, go: GoType) -> bytes:
    """Spell keys as in `go`; drop nulls and unknown keys. Raises BadRequest with Go's text."""
    value = _parse(body)
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise BadRequest(f"json: cannot unmarshal {_kind(value)} into Go value of type {go.name}")
    try:
        text = json.dumps(_normalise(value, go, go.name.removeprefix("api."), ""), ensure_ascii=False)
    except RecursionError:
        raise BadRequest("exceeded max depth") from None
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text).encode()


def _parse(body: bytes) -> Any:
    text = body.decode("utf-8", "replace")
    start = _after_space(text, 0)
    if start == len(text):
        raise BadRequest("missing request body")
    decoder = json.JSONDecoder(
        object_pairs_hook=_last_wins, parse_float=_float, parse_int=_int, parse_constant=_constant
    )
    try:
        return decoder.raw_decode(text, start)[0]
    except RecursionError:
        raise BadRequest("exceeded max depth") from None
    except json.JSONDecodeError as error:
        raise BadRequest(_syntax_error(error)) from None


def _syntax_error(error: json.JSONDecodeError) -> str:
    """Go's text, as far as Python's error allows (R151)."""
    position = error.pos
    if error.msg.startswith("Illegal trailing comma"):  # Python 3.13
        position = _after_space(error.doc, position + 1)
    if position >= len(error.doc) or error.msg.startswith("Unterminated"):
        return "unexpected EOF"
    where = next((text for start, text in _SYNTAX.items() if error.msg.startswith(start)), "in string literal")
    return f"invalid character {_quoted(error.doc[position])} {where}"


def _after_space(text: str, start: int) -> int:
    space = _SPACE.match(text, start)
    return space.end() if space else start


def _quoted(char: str) -> str:
    """Go quotes the first byte of the character."""
    byte = chr(char.encode("utf-8", "surrogatepass")[0])
    return "'\\''" if byte == "'" else f"'{repr(byte)[1:-1]}'"


def _last_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Move a repeated key to the end."""
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
    """Refuse NaN and Infinity."""
    raise BadRequest(f"invalid character '{text.lstrip('-')[0]}' looking for beginning of value")


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
    if go.kind not in ("", kind):
        raise BadRequest(f"json: cannot unmarshal {kind} into Go struct field {root}.{path} of type {go.name}")
    if go.name == "int":
        return _integer(value, f"{root}.{path}")
    if isinstance(value, list) and go.item is not None:
        return [_item(each, go.item, root, path) for each in value if each is not None or go.item.kind == "object"]
    if go.fields:
        return _normalise_fields(value, go, root, path)
    if isinstance(value, dict) and go.item is not None:
        return {key: _item(each, go.item, root, path) for key, each in value.items()}
    return value


def _item(value: Any, go: GoType, root: str, path: str) -> Any:
    """Replace null by Go's zero value."""
    return _normalise(_ZERO[go.kind]() if value is None else value, go, root, path)


def _integer(value: int | float, field: str) -> int:
    if not _MIN_INT <= value <= _MAX_INT or (isinstance(value, float) and not value.is_integer()):
        raise BadRequest(f"json: cannot unmarshal number {value} into Go struct field {field} of type int")
    return int(value)


def _normalise_fields(value: dict[str, Any], go: GoType, root: str, path: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, item in value.items():
        name = key if key in go.fields else key.casefold()
        known = go.fields.get(name)
        if known is not None and item is not None:
            result[name] = _normalise(item, known, root, f"{path}.{name}" if path else name)
    return result

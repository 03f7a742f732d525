"""Decodes the bodies of forwarded requests, with errors in OpenAI's words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.vllm.api import INVALID_JSON

EMPTY = "EOF"
"""Ollama's text (R150)."""
_WRONG = re.compile(r"(?P<what>.*?)(?P<paths>(?: - at `[^`]*`)*)\Z", re.DOTALL)
_PATH = re.compile(r"`\$?([^`]*)`")
_EXPECTED = re.compile(r"Expected (?P<wanted>.+), got `(?P<got>\w+)`\Z")
_MISSING = re.compile(r"Object missing required field `(?P<field>\w+)`\Z")

_KINDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
"""JSON's types by msgspec's names."""

StructT = TypeVar("StructT", bound=msgspec.Struct)


class BodyDecoder(Generic[StructT]):
    """Ignores unknown fields."""

    def __init__(self, struct: type[StructT], hook: Callable[[type, Any], Any] | None = None) -> None:
        """`hook` decodes other types. Raises ValueError with msgspec's text."""
        self._decode = msgspec.json.Decoder(struct, dec_hook=hook).decode

    def decode(self, body: bytes) -> StructT:
        """Raises BadRequest."""
        try:
            return self._decode(body)
        except msgspec.ValidationError as error:
            raise invalid_value(str(error)) from None
        except INVALID_JSON as error:
            if not body.strip():
                raise BadRequest(EMPTY) from None
            raise BadRequest(f"the request body is not valid JSON: {error}") from None


def invalid_value(text: str) -> BadRequest:
    """Name the field by msgspec's text, such as "Expected `int`, got `str` - at `$.n`"."""
    found = _WRONG.match(text)
    assert found is not None  # it matches anything
    path = "".join(reversed(_PATH.findall(found["paths"]))).removeprefix(".")  # a hook's path comes first
    if missing := _MISSING.match(found["what"]):
        return missing_field(f"{path}.{missing['field']}" if path else missing["field"])
    if not path:
        return BadRequest("the request body must be a JSON object")
    if expected := _EXPECTED.match(found["what"]):
        kinds = [kind for kind in expected["wanted"].strip("`").split(" | ") if kind != "null"]
        wanted = " or ".join(_KINDS.get(kind, kind) for kind in kinds)
        got = _KINDS.get(expected["got"], expected["got"])
        text = f"Invalid type for '{path}': expected {wanted}, but got {got} instead."
        return BadRequest(text, param=path, code="invalid_type")
    return BadRequest(f"Invalid value for '{path}': {found['what']}.", param=path)


class RefusedFields:
    """Fields that reach into the server, or that vLLM ignores although they matter."""

    def __init__(self, advice: Mapping[str, str]) -> None:
        """`advice`: by field."""
        self._advice = advice
        struct = msgspec.defstruct("ServerOnly", [(name, Any, None) for name in advice], frozen=True)
        self._none, self._decode = struct(), msgspec.json.Decoder(struct).decode

    def check(self, body: bytes) -> None:
        """Raises BadRequest. `body` is a JSON object, and null counts as absent."""
        try:
            found = self._decode(body)
        except INVALID_JSON as error:  # a number that Python cannot hold
            raise invalid_value(str(error)) from None
        if found != self._none:
            name = next(name for name in self._advice if getattr(found, name) is not None)
            raise not_for_clients(name, self._advice[name])


def missing_field(name: str) -> BadRequest:
    return BadRequest(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def not_for_clients(name: str, advice: str) -> BadRequest:
    """Refuse a field that reaches into the server."""
    return BadRequest(f"'{name}' is not accepted from clients: {advice}", param=name, code="unsupported_parameter")
